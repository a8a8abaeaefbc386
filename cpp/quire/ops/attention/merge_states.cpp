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

double lse_at(const ArrayView& lses, std::int64_t i, std::int64_t token, std::int64_t head) {
  return *reinterpret_cast<const float*>(lses.at(i, token, head));
}

template <class T>
void merge_row(const MergeStatesArgs& args, std::int64_t token, std::int64_t head,
               std::vector<double>& sums) {
  const std::int64_t parts = args.outs.shape[0];
  double largest = -kInfinity;
  for (std::int64_t i = 0; i < parts; ++i) {
    largest = std::max(largest, lse_at(args.lses, i, token, head));
  }
  std::fill(sums.begin(), sums.end(), 0.0);
  double total = 0;
  for (std::int64_t i = 0; i < parts; ++i) {
    const double lse = lse_at(args.lses, i, token, head);
    if (lse == -kInfinity) continue;  // the identity: its values have no weight, NaN or not
    const double weight = lse == largest ? 1.0 : std::exp(lse - largest);
    total += weight;
    const T* row = reinterpret_cast<const T*>(args.outs.at(i, token, head));
    for (std::size_t d = 0; d < sums.size(); ++d) sums[d] += weight * to_float(row[d]);
  }
  visit_dtype(args.out.dtype, [&](auto type) {
    using Out = decltype(type);
    Out* row = reinterpret_cast<Out*>(args.out.at(token, head));
    for (std::size_t d = 0; d < sums.size(); ++d) {
      row[d] = from_float<Out>(total == 0 ? 0.0f : static_cast<float>(sums[d] / total));
    }
  });
  args.lse[token * args.out.shape[1] + head] = total == 0
                                                   ? -std::numeric_limits<float>::infinity()
                                                   : static_cast<float>(largest + std::log(total));
}

}  // namespace

void merge_states(const MergeStatesArgs& args) {
  const DefaultFloatMode mode;
  validate(args);
  std::vector<double> sums(static_cast<std::size_t>(args.outs.shape[3]));
  visit_dtype(args.outs.dtype, [&](auto type) {
    for (std::int64_t token = 0; token < args.outs.shape[1]; ++token) {
      check_interruption();
      for (std::int64_t head = 0; head < args.outs.shape[2]; ++head) {
        merge_row<decltype(type)>(args, token, head, sums);
      }
    }
  });
}

}  // namespace quire
