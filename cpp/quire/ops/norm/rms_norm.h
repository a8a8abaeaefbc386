// Root mean square normalisation: its arguments, and the formula.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"

namespace quire {

// y[d] = h[d] / sqrt(mean(h^2) + eps) * (weight_offset + weight[d]) * silu(gate[d]), of each row of
// D numbers, where h = x + residual, rounded to x's dtype: the bits are those of adding first.
// Where there is no residual h is x, and where there is no gate its factor is not there. All else
// is float32, sums too, and y is rounded to out's dtype once.
//
// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv:1910.07467); the offset
// is 1 in models that store weight - 1 (Gemma), and the gate is that of Gated DeltaNet
// (arXiv:2412.06464).
struct RmsNormArgs {
  ArrayView x;        // [..., D], plain floats
  ArrayView weight;   // [D], plain floats
  double eps = 1e-6;  // >= 0
  double weight_offset = 0;
  std::optional<ArrayView> residual;  // as x
  std::optional<ArrayView> gate;      // as x
  // As x, written: y; may be x, residual or gate. Where x is float32 it may have another dtype, and
  // is apart from them then: a model's sum over its layers is kept in full, and its products read
  // rows of fewer bits.
  ArrayView out;
  // As x, written where there is a residual: x + residual. May be x or residual.
  std::optional<ArrayView> residual_out;
};

// Throws ValueError or TypeError under the name of `function`.
void check_rms_norm(const RmsNormArgs& args, std::string_view function = "rms_norm");

// y in float64, of checked arguments whose out is none of what is read, a row after the other. h is
// rounded as above.
std::vector<double> reference_rms_norm(const RmsNormArgs& args);

}  // namespace quire
