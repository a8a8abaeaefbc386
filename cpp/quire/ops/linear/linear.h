// What a matrix product with a weight is: its arguments, and the formula.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"
#include "quire/ops/linear/weight.h"

namespace quire {

// out[m, n] = sum_k x[m, k] * w[n, k] + bias[n], the product of a linear layer.
//
// Sums are float32, of products in one order that K alone decides: for each 32 numbers of K those
// of even k one after the other from zero, and those of odd k likewise; then both together, then
// onto the sum so far. int8 has its scale, groups their scales and offsets, applied to sums of
// x * number: of a group, sum = sum + scale * s, then + offset * (the group's sum of x). Then bias
// is added, and the result rounded to out's dtype.
//
// Where x is bfloat16 and the weight bfloat16, int8 or int4, subnormal numbers are taken for zero:
// these are the sums of AMX's tiles, and those of other processors are the same. A row of x has the
// same bits whatever rows are beside it.
struct LinearArgs {
  ArrayView x;                            // [M, K], plain floats; M may be 0
  std::optional<ArrayView> weight_array;  // [N, K], plain floats: packed for this call alone; or
  const Weight* weight = nullptr;         // [N, K], where there is no array
  std::optional<ArrayView> bias;          // [N], plain floats
  ArrayView out;                          // [M, N], of x's dtype or float32, written

  std::int64_t num_rows() const { return x.shape[0]; }
  // How the weight is packed, or would be.
  PackedLayout layout() const;
};

// Throws ValueError or TypeError under the name of `function`.
void check_linear(const LinearArgs& args, std::string_view function = "linear");

// The product in float64, of checked arguments: [M, N], not rounded to out's dtype.
std::vector<double> reference_linear(const LinearArgs& args);

}  // namespace quire
