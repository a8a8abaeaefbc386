// What tiles need beside multiplying: 16 x 16 words turned over, and rows of pairs.
#pragma once

#include <cstdint>

#include "quire/base/dtype.h"
#include "quire/cpu/attention/tiles/tile_grid.h"

namespace quire {

template <class S>
struct TileWords {
  using Vec = typename S::Vec;
  static constexpr int kSide = 16;  // rows of a tile, and words of 32 bits in each
  static constexpr std::int64_t kRowBytes = 64;
  static constexpr std::int64_t kTileFloats = kSide * kSide;

  // 16 keys, `stride` bytes apart.
  struct KeyRows {
    const std::byte* rows;
    std::int64_t stride;
  };

  // Word j of row i to word i of row j. Rows of `from` are `stride` floats apart.
  static void transpose(const float* from, std::int64_t stride, float* to) {
    if constexpr (S::kWidth == kSide) {
      Vec v[kSide];
#pragma GCC unroll 16
      for (int i = 0; i < kSide; ++i) v[i] = S::load(from + i * stride);
      S::transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < kSide; ++i) S::store(to + i * kSide, v[i]);
    } else {
      for (int i = 0; i < kSide; ++i) {
        for (int j = 0; j < kSide; ++j) to[j * kSide + i] = from[i * stride + j];
      }
    }
  }

  // The same of the first 32 numbers of keys, as pairs.
  static void transpose(const KeyRows& keys, float* to) {
    const auto row = [&](int i) {
      return reinterpret_cast<const BFloat16*>(keys.rows + i * keys.stride);
    };
    if constexpr (S::kWidth == kSide) {
      Vec v[kSide];
#pragma GCC unroll 16
      for (int i = 0; i < kSide; ++i) v[i] = S::load_bits(row(i));
      S::transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < kSide; ++i) S::store(to + i * kSide, v[i]);
    } else {
      for (int i = 0; i < kSide; ++i) {
        for (int j = 0; j < kSide; ++j) S::store(to + j * kSide + i, S::load_bits(row(i) + 2 * j));
      }
    }
  }

  // 32 columns of two rows of bfloat16s, `count` of them and zeros after: as a row of pairs of the
  // even columns, and one of the odd ones, kTileFloats further on. With kChecks adds 0 times every
  // number to `poison`: that is NaN then if one is not finite.
  template <bool kWhole, bool kChecks>
  static void pair_up(const BFloat16* a, const BFloat16* b, std::int64_t count, float* to,
                      Vec& poison) {
    for (int i = 0; i < kSide; i += S::kWidth) {
      const Vec x = load<kWhole>(a, 2 * i, count), y = load<kWhole>(b, 2 * i, count);
      const auto pair = S::pair_up(x, y);
      S::store(to + i, pair.lo);
      S::store(to + kTileFloats + i, pair.hi);
      if constexpr (kChecks) {
        for (const Vec words : {x, y}) {
          const auto floats = S::widen(words);
          poison = S::fma(floats.lo, S::zero(), S::fma(floats.hi, S::zero(), poison));
        }
      }
    }
  }

  // Natural columns of 32 that are even ones, then odd ones.
  static void to_natural(const float* from, float* to) {
    for (int i = 0; i < kSide; ++i) {
      to[2 * i] = from[i];
      to[2 * i + 1] = from[kSide + i];
    }
  }
  static void from_natural(const float* from, float* to) {
    for (int i = 0; i < kSide; ++i) {
      to[i] = from[2 * i];
      to[kSide + i] = from[2 * i + 1];
    }
  }

  // 2 * S::kWidth numbers of a row from `column` on, of `count` that it has, unless it is kWhole.
  template <bool kWhole>
  static Vec load(const BFloat16* row, std::int64_t column, std::int64_t count) {
    if constexpr (kWhole) return S::load_bits(row + column);
    const std::int64_t rest = count - column;
    if (rest >= 2 * S::kWidth) return S::load_bits(row + column);
    return rest > 0 ? S::load_bits(row + column, static_cast<int>(rest)) : S::zero();
  }
};

}  // namespace quire
