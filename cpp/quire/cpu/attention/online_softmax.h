// The softmax of one query row, a tile of keys at a time.
#pragma once

#include <cstdint>

#include "quire/base/dtype.h"
#include "quire/cpu/attention/key_tile.h"
#include "quire/cpu/simd_math.h"

namespace quire {

// One row of a StateView (task/attention_state.h).
struct RowState {
  float* maximum;
  float* sums;    // [kWidth]
  float* values;  // [num_values]
  std::int64_t num_values;
};

// The positions of a tile's keys less that of a query: of the first, where the others follow it, or
// of each.
struct KeyDistance {
  float first;
  const float* each;  // null: they follow
};

// Scores are dot products as the kernel makes them, not yet scaled: s. In units of log2 they are
//   exponent_scale * s                                          or, with a softcap,
//   exponent_scale * tanh(cap_scale * s)                        plus, with ALiBi,
//   slope * (key position - query position)
// The scale enters only here, as one fused multiply-add with the maximum, so that the difference of
// two large scores is not spoilt by rounding each of them first.
template <class S>
class OnlineSoftmax {
 public:
  using Rows = AttentionRows<S>;
  using Vec = typename S::Vec;

  // A sum may grow by 2^kSlack before it is rescaled: rescaling is rare, and float32 has room.
  // Source: Dao, "FlashAttention-4"; the threshold of 8 is that of log2(256).
  static constexpr float kSlack = 8.0f;

  // From maxima of this size on scores are scaled and rounded before the maximum is taken away, as
  // the maximum was: they are further apart than the exponents of weights, and the largest must
  // meet its maximum.
  static constexpr float kScaleFirst = 0x1p28f;

  explicit OnlineSoftmax(const AttentionTask& task)
      : has_cap_(task.softcap != 0),
        cap_scale_(has_cap_ ? Rows::finite(Rows::score_scale(task) / task.softcap) : 0.0f),
        exponent_scale_(
            Rows::finite((has_cap_ ? task.softcap : Rows::score_scale(task)) * Rows::kLog2E)) {}

  // Turns the scores of keys [begin, end) of a tile of kKeys into weights, 2^(score - maximum),
  // those outside into 0, and takes them into the row's maximum, sums and values. Weights are left
  // rounded to Weight, and summed unrounded; `weights`, where it is not float, holds them as such.
  // Scores are of numbers that the keys are multiples of, by `scales`; weights are left times those
  // of the values, and summed without. `slope` in log2 units; `distance` from the query to the
  // tile's keys. Where kHasShown not all keys from begin to end are seen, but those whose `shown`
  // is not 0.
  template <int kKeys, bool kHasShown, class Weight>
  void update(float* scores, Weight* weights, const KeyScales& scales, int begin, int end,
              float slope, const KeyDistance& distance, const float* shown,
              const RowState& row) const {
    constexpr int kVectors = kKeys / S::kWidth;
    Vec x[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) x[i] = S::load(scores + i * S::kWidth);
    if (scales.k != nullptr) {
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) x[i] = S::mul(x[i], S::load(scales.k + i * S::kWidth));
    }
    if (has_cap_) {
      const Vec scale = S::set1(cap_scale_);
      for (int i = 0; i < kVectors; ++i) x[i] = SimdMath<S>::tanh(S::mul(x[i], scale));
    }
    float factor = exponent_scale_;
    if (slope != 0) {
      for (int i = 0; i < kVectors; ++i) {
        const Vec offset =
            distance.each != nullptr
                ? S::load(distance.each + i * S::kWidth)
                : S::add(S::iota(), S::set1(distance.first + static_cast<float>(i * S::kWidth)));
        x[i] = S::fma(x[i], S::set1(factor), S::mul(S::set1(slope), offset));
      }
      factor = 1.0f;
    }

    const bool whole = !kHasShown && begin <= 0 && end >= kKeys;
    const auto seen = [&](int i) {
      if constexpr (kHasShown) return S::less(S::zero(), S::load(shown + i * S::kWidth));
      return lanes(i, begin, end);
    };
    const Vec minus_infinity = S::set1(-__builtin_inff());
    Vec largest = minus_infinity;
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      if (!whole) x[i] = S::select(seen(i), x[i], minus_infinity);
      largest = S::max(largest, x[i]);
    }
    const Vec limit = S::set1(*row.maximum + kSlack);
    if (S::any(S::less(limit, S::mul(largest, S::set1(factor))))) {
      raise(S::reduce_max(largest) * factor, row);
    }
    Vec sum = S::load(row.sums);
    if (*row.maximum == -__builtin_inff()) {
      // No key has any weight yet, unless a NaN hides behind the -inf of others: it must be seen.
      for (int i = 0; i < kVectors; ++i) {
        const Vec weight = S::select(S::less(x[i], S::zero()), S::zero(), x[i]);
        sum = S::add(sum, weight);
        store(scores, weights, i * S::kWidth, weight);
      }
      S::store(row.sums, sum);
      return;
    }
    if (__builtin_fabsf(*row.maximum) >= kScaleFirst && factor != 1.0f) {
      for (int i = 0; i < kVectors; ++i) x[i] = S::mul(x[i], S::set1(factor));
      factor = 1.0f;
    }
    const Vec scale = S::set1(factor);
    const Vec minus_maximum = S::set1(-*row.maximum);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      Vec weight = SimdMath<S>::exp2(S::fma(x[i], scale, minus_maximum));
      if (!whole) weight = S::select(seen(i), weight, S::zero());
      sum = S::add(sum, weight);
      if (scales.v != nullptr) weight = S::mul(weight, S::load(scales.v + i * S::kWidth));
      store(scores, weights, i * S::kWidth, weight);
    }
    S::store(row.sums, sum);
  }

 private:
  static void store(float* scores, float*, int at, Vec weight) { S::store(scores + at, weight); }
  static void store(float* scores, BFloat16* weights, int at, Vec weight) {
    S::store(scores + at, S::store_rounded(weights + at, weight));
  }

  static typename S::Mask lanes(int vector, int begin, int end) {
    return S::lanes(begin - vector * S::kWidth, end - vector * S::kWidth);
  }

  static void raise(float to, const RowState& row) {
    const float from = *row.maximum;
    *row.maximum = to;
    if (from == -__builtin_inff()) return;
    const Vec shrink = SimdMath<S>::exp2(S::set1(from - to));
    S::store(row.sums, S::mul(S::load(row.sums), shrink));
    for (std::int64_t i = 0; i < row.num_values; i += S::kWidth) {
      S::store(row.values + i, S::mul(S::load(row.values + i), shrink));
    }
  }

  const bool has_cap_;
  const float cap_scale_;
  const float exponent_scale_;  // >= 0
};

}  // namespace quire
