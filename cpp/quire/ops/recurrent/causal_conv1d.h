// A short convolution along the tokens of each sequence: its arguments, and the formula.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"
#include "quire/ops/recurrent/token_spans.h"

namespace quire {

// out[t, c] = activation(bias[c] + sum_j weight[c, j] * x[t - (K - 1) + j, c]), each channel by
// itself. The numbers before the first token of a call are those of `state`: the last K - 1 of x
// that the sequence has had, the oldest first, which the call brings up to date. In float32, the
// sum from bias on in the order of j, rounded to x's dtype once. A token's bits are the same
// however a sequence is cut into calls.
//
// Source: the convolutions of Mamba (Gu and Dao, arXiv:2312.00752) and Gated DeltaNet.
struct CausalConv1dArgs {
  static constexpr std::int64_t kMostTaps = 16;

  ArrayView x;                    // [T, C], plain floats
  ArrayView weight;               // [C, K], plain floats; K from 1 to kMostTaps
  ArrayView state;                // [S, C, K - 1], of x's dtype or float32, written
  std::optional<ArrayView> bias;  // [C], plain floats
  // [B], of the S states the one of each sequence, different ones; none: all, in their order, so
  // that B = S.
  std::optional<IndexView> state_indices;
  std::optional<IndexView> cu_seqlens;  // [B + 1]; without: one token each, or B = 1
  bool silu = true;                     // the activation, or none
  ArrayView out;                        // as x, written; apart from all else
};

// Where sequences begin, and which states are theirs. Throws ValueError, TypeError or IndexError
// under the name of `function`.
TokenSpans check_causal_conv1d(const CausalConv1dArgs& args,
                               std::string_view function = "causal_conv1d");

// out in float64, of checked arguments; state stays as it is.
std::vector<double> reference_causal_conv1d(const CausalConv1dArgs& args);

}  // namespace quire
