// The recurrence of Gated DeltaNet: its arguments, and the formula.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"
#include "quire/ops/recurrent/token_spans.h"

namespace quire {

// Of each sequence and value head a matrix S [Dk, Dv], which each token changes and then reads:
//
//   S <- e^g S;   S <- S + k (beta (v - S^T k))^T;   out = S^T (scale * q)
//
// Key head h / (Hv / Hk) is that of value head h. Source: Yang, Kautz and Hatamizadeh, "Gated Delta
// Networks" (arXiv:2412.06464); the order is that of transformers'
// torch_recurrent_gated_delta_rule.
//
// In float32, token after token, with sums over Dk in an order that the processor alone decides: a
// token's bits and the state's are the same however a sequence is cut into calls, also a token at a
// time.
struct GatedDeltaRuleArgs {
  ArrayView q, k;     // [T, Hk, Dk], plain floats
  ArrayView v;        // [T, Hv, Dv], plain floats; Hv a multiple of Hk
  ArrayView g, beta;  // [T, Hv], plain floats
  ArrayView state;    // [S, Hv, Dk, Dv], float32, written
  // [B], of the S states the one of each sequence, different ones; none: all, in their order, so
  // that B = S.
  std::optional<IndexView> state_indices;
  std::optional<IndexView> cu_seqlens;  // [B + 1]; without: one token each, or B = 1
  std::optional<double> scale;          // none: 1 / sqrt(Dk)
  ArrayView out;                        // [T, Hv, Dv], of q's dtype, written; apart from all else

  double scale_or_default() const;
};

// Where sequences begin, and which states are theirs. Throws ValueError, TypeError or IndexError
// under the name of `function`.
TokenSpans check_gated_delta_rule(const GatedDeltaRuleArgs& args,
                                  std::string_view function = "gated_delta_rule");

// Out and the state after it in float64, of checked arguments; `args.state` stays as it is.
struct GatedDeltaRuleReference {
  std::vector<double> out, state;
};
GatedDeltaRuleReference reference_gated_delta_rule(const GatedDeltaRuleArgs& args);

}  // namespace quire
