#include "quire/ops/attention/merge_states.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quire/base/float_mode.h"
#include "quire/base/interruption.h"
#include "quire/ops/attention/validate.h"

namespace quire {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Bytes from an array's beginning to its row number `row` in C order, of `axes` axes from `first`
// on.
std::int64_t offset_of(const ArrayView& view, int first, int axes, std::int64_t row) {
  std::int64_t offset = 0;
  for (int axis = first + axes - 1; axis >= first; --axis) {
    offset += row % view.shape[axis] * view.strides[axis];
    row /= view.shape[axis];
  }
  return offset;
}

template <class T>
void merge_row(const MergeStatesArgs& args, std::int64_t row, std::vector<double>& sums) {
  const std::int64_t parts = args.outs.shape[0];
  const int axes = args.outs.ndim - 2;
  const std::byte* const outs = args.outs.data + offset_of(args.outs, 1, axes, row);
  const std::byte* const lses = args.lses.data + offset_of(args.lses, 1, axes, row);
  const auto lse_of = [&](std::int64_t i) {
    return double{*reinterpret_cast<const float*>(lses + i * args.lses.strides[0])};
  };
  double largest = -kInfinity;
  for (std::int64_t i = 0; i < parts; ++i) {
    if (!std::isinf(lse_of(i))) largest = std::max(largest, lse_of(i));
  }
  std::fill(sums.begin(), sums.end(), 0.0);
  double total = 0;
  for (std::int64_t i = 0; i < parts; ++i) {
    const double lse = lse_of(i);
    if (std::isinf(lse)) continue;  // without keys: its values have no weight, NaN or not
    const double weight = lse == largest ? 1.0 : std::exp(lse - largest);
    total += weight;
    const T* values = reinterpret_cast<const T*>(outs + i * args.outs.strides[0]);
    for (std::size_t d = 0; d < sums.size(); ++d) sums[d] += weight * to_float(values[d]);
  }
  visit_dtype(args.out.dtype, [&](auto type) {
    using Out = decltype(type);
    Out* values = reinterpret_cast<Out*>(args.out.data + offset_of(args.out, 0, axes, row));
    for (std::size_t d = 0; d < sums.size(); ++d) {
      values[d] = from_float<Out>(total == 0 ? 0.0f : static_cast<float>(sums[d] / total));
    }
  });
  *reinterpret_cast<float*>(args.lse.data + offset_of(args.lse, 0, axes, row)) =
      total == 0 ? -std::numeric_limits<float>::infinity()
                 : static_cast<float>(largest + std::log(total));
}

}  // namespace

void merge_states(const MergeStatesArgs& args) {
  const DefaultFloatMode mode;
  validate(args);
  const auto& shape = args.outs.shape;
  const int last = args.outs.ndim - 1;
  std::vector<double> sums(static_cast<std::size_t>(shape[last]));
  std::int64_t rows = 1;
  for (int axis = 1; axis < last; ++axis) rows *= shape[axis];
  visit_dtype(args.outs.dtype, [&](auto type) {
    for (std::int64_t row = 0; row < rows; ++row) {
      check_interruption();
      merge_row<decltype(type)>(args, row, sums);
    }
  });
}

}  // namespace quire
