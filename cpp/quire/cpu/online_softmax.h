// The softmax of one query row, a tile of keys at a time.
#pragma once

#include <cstdint>

#include "quire/cpu/simd_math.h"

namespace quire {

// Keys that the fused kernel takes at a time.
inline constexpr int kTileKeys = 32;

// Scores are dot products as the kernel makes them, not yet scaled: s. In units of log2 they are
//   x = exponent_scale * s                                          or, with a softcap,
//   x = exponent_scale * tanh(cap_scale * s)                        plus, with ALiBi,
//   slope * (key position - query position)
// The scale enters only here, as one fused multiply-add with the maximum, so that the difference of
// two large scores is not spoilt by rounding each of them first.
template <class S>
struct OnlineSoftmax {
  using Vec = typename S::Vec;
  static constexpr int kVectors = kTileKeys / S::kWidth;

  // A sum may grow by 2^kSlack before it is rescaled: rescaling is rare, and float32 has room.
  // Source: Dao, "FlashAttention-4"; the threshold of 8 is that of log2(256).
  static constexpr float kSlack = 8.0f;

  float exponent_scale;  // >= 0
  bool has_softcap;
  float cap_scale;  // where there is one

  // Turns the scores of keys [begin, end) of the tile into weights 2^(x - maximum), those outside
  // into 0, and takes them into the row's maximum, sums [kWidth] and values [num_values]. `slope`
  // in log2 units; `distance`: position of the tile's first key less that of the query.
  void update(float* scores, int begin, int end, float slope, float distance, float& maximum,
              float* sums, float* values, std::int64_t num_values) const {
    Vec x[kVectors];
    for (int i = 0; i < kVectors; ++i) x[i] = S::load(scores + i * S::kWidth);
    if (has_softcap) {
      for (int i = 0; i < kVectors; ++i) x[i] = SimdMath<S>::tanh(S::mul(x[i], S::set1(cap_scale)));
    }
    float factor = exponent_scale;
    if (slope != 0) {
      for (int i = 0; i < kVectors; ++i) {
        const Vec offset = S::add(S::iota(), S::set1(distance + static_cast<float>(i * S::kWidth)));
        x[i] = S::fma(x[i], S::set1(factor), S::mul(S::set1(slope), offset));
      }
      factor = 1.0f;
    }

    const bool whole = begin <= 0 && end >= kTileKeys;
    const Vec minus_infinity = S::set1(-__builtin_inff());
    Vec largest = minus_infinity;
    for (int i = 0; i < kVectors; ++i) {
      if (!whole) x[i] = S::select(lanes(i, begin, end), x[i], minus_infinity);
      largest = S::max(largest, x[i]);
    }
    const float tile_maximum = S::reduce_max(largest) * factor;
    if (tile_maximum == -__builtin_inff()) {
      // No key has any weight, unless a NaN hides behind the -inf of others: it must be seen.
      for (int i = 0; i < kVectors; ++i) {
        const Vec weight = S::select(S::less(x[i], S::zero()), S::zero(), x[i]);
        S::store(sums, S::add(S::load(sums), weight));
        S::store(scores + i * S::kWidth, weight);
      }
      return;
    }
    if (!(tile_maximum <= maximum + kSlack)) raise(tile_maximum, maximum, sums, values, num_values);

    Vec sum = S::load(sums);
    for (int i = 0; i < kVectors; ++i) {
      Vec weight = SimdMath<S>::exp2(S::fma(x[i], S::set1(factor), S::set1(-maximum)));
      if (!whole) weight = S::select(lanes(i, begin, end), weight, S::zero());
      sum = S::add(sum, weight);
      S::store(scores + i * S::kWidth, weight);
    }
    S::store(sums, sum);
  }

 private:
  static typename S::Mask lanes(int vector, int begin, int end) {
    return S::lanes(begin - vector * S::kWidth, end - vector * S::kWidth);
  }

  static void raise(float to, float& maximum, float* sums, float* values, std::int64_t num_values) {
    if (maximum != -__builtin_inff()) {
      const Vec shrink = SimdMath<S>::exp2(S::set1(maximum - to));
      S::store(sums, S::mul(S::load(sums), shrink));
      for (std::int64_t i = 0; i < num_values; i += S::kWidth) {
        S::store(values + i, S::mul(S::load(values + i), shrink));
      }
    }
    maximum = to;
  }
};

}  // namespace quire
