// The sums of a part with many keys.
//
// Adding n equal numbers up in float32 may be off by n * 2^-26 of the sum, as all additions between
// two powers of two are rounded by the same. So a long part adds up kSumKeys keys at a time, and
// carries what comes out over into float64. Parts of no more keys know nothing of it.
#pragma once

#include <cstdint>

#include "quire/cpu/attention/online_softmax.h"
#include "quire/task/attention_state.h"

namespace quire {

template <class S>
class CarriedSums {
 public:
  // `memory`: StateView::carried, of so many rows and values of each; null: none are carried.
  CarriedSums(float* memory, std::int64_t rows, std::int64_t num_values)
      : rows_(rows),
        num_values_(num_values),
        values_(reinterpret_cast<double*>(memory)),
        sums_(memory == nullptr ? nullptr : values_ + rows * num_values),
        maxima_(memory == nullptr ? nullptr : sums_ + rows) {}

  bool are_kept() const { return values_ != nullptr; }

  void clear() const {
    for (std::int64_t i = 0; i < rows_ * num_values_; ++i) values_[i] = 0;
    for (std::int64_t r = 0; r < rows_; ++r) {
      sums_[r] = 0;
      maxima_[r] = -__builtin_inf();
    }
  }

  // Takes what row r of a state has added up over, and leaves it at its maximum, with nothing.
  void take(std::int64_t r, const RowState& row) const {
    double* const values = values_ + r * num_values_;
    const double maximum = *row.maximum;
    if (maximum != maxima_[r] && maxima_[r] != -__builtin_inf()) {
      const double shrink = __builtin_exp2(maxima_[r] - maximum);
      sums_[r] *= shrink;
      for (std::int64_t d = 0; d < num_values_; ++d) values[d] *= shrink;
    }
    maxima_[r] = maximum;
    sums_[r] += S::reduce_add(S::load(row.sums));
    S::store(row.sums, S::zero());
    for (std::int64_t d = 0; d < num_values_; ++d) {
      values[d] += row.values[d];
      row.values[d] = 0;
    }
  }

  // The other way round, once all has been taken over.
  void give_back(std::int64_t r, const RowState& row) const {
    const double* const values = values_ + r * num_values_;
    row.sums[0] = static_cast<float>(sums_[r]);
    for (std::int64_t d = 0; d < num_values_; ++d) row.values[d] = static_cast<float>(values[d]);
  }

 private:
  const std::int64_t rows_, num_values_;
  double* const values_;  // [rows, num_values]
  double* const sums_;    // [rows]
  double* const maxima_;  // [rows]
};

}  // namespace quire
