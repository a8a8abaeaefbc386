// The two products of attention in tiles: scores of keys and queries, and weighted sums of values.
//
// Both have query rows by 16, one or two times of them at once. Scores are computed the other way
// round, keys by rows, so that keys are multiplied where they lie, and weights come out of the
// softmax in pairs of keys. In which order tiles add does not depend on which operand is which
// (simd/tile_model.h).
#pragma once

#include "quire/cpu/attention/tiles/tile_words.h"

namespace quire {

template <class S>
struct TileProducts {
  using Words = TileWords<S>;
  using KeyRows = typename Words::KeyRows;
  static constexpr std::int64_t kRowBytes = Words::kRowBytes;
  static constexpr std::int64_t kTileFloats = Words::kTileFloats;
  static constexpr int kPairWork = 80;  // two multiplications, in half cycles

  // Of kBlocks x 16 keys and kTiles x 16 query rows, two or four products of them in all, whose
  // tiles of pairs of columns lie one after the other at q0 and q1: to0 and to1 get a row of 16
  // scores for each key.
  template <int kTiles, int kBlocks, class Lines>
  static void score(const KeyRows* keys, const float* q0, const float* q1, std::int64_t chunks,
                    float* to0, float* to1, Lines& all_lines) {
    static_assert(kTiles * kBlocks <= 4);
    S::template zero_tile<0>();
    S::template zero_tile<1>();
    if constexpr (kTiles * kBlocks == 4) {
      S::template zero_tile<2>();
      S::template zero_tile<3>();
    }
    Lines lines = all_lines;  // in registers, as tiles may write anything
    const std::byte* rows[kBlocks];
    std::int64_t strides[kBlocks];
#pragma GCC unroll 4
    for (int i = 0; i < kBlocks; ++i) {
      rows[i] = keys[i].rows;
      strides[i] = keys[i].stride;
    }
    for (std::int64_t at = 0; at < chunks * kRowBytes; at += kRowBytes) {
      S::template load_tile<6>(q0, kRowBytes);
      S::template load_tile<4>(rows[0] + at, strides[0]);
      S::template multiply_tiles<0, 4, 6>();
      S::template load_tile<5>(rows[1] + at, strides[1]);
      S::template multiply_tiles<1, 5, 6>();
      lines.advance(kPairWork);
      if constexpr (kBlocks == 4) {
        S::template load_tile<7>(rows[2] + at, strides[2]);
        S::template multiply_tiles<2, 7, 6>();
        S::template load_tile<4>(rows[3] + at, strides[3]);
        S::template multiply_tiles<3, 4, 6>();
        lines.advance(kPairWork);
      }
      if constexpr (kTiles == 2) {
        S::template load_tile<7>(q1, kRowBytes);
        S::template multiply_tiles<2, 4, 7>();
        S::template multiply_tiles<3, 5, 7>();
        lines.advance(kPairWork);
      }
      q0 += kTileFloats;
      q1 += kTileFloats;
    }
    S::template store_tile<0>(to0, kRowBytes);
    S::template store_tile<1>(to0 + kTileFloats, kRowBytes);
    if constexpr (kBlocks == 4) {
      S::template store_tile<2>(to0 + 2 * kTileFloats, kRowBytes);
      S::template store_tile<3>(to0 + 3 * kTileFloats, kRowBytes);
    }
    if constexpr (kTiles == 2) {
      S::template store_tile<2>(to1, kRowBytes);
      S::template store_tile<3>(to1 + kTileFloats, kRowBytes);
    }
    all_lines = lines;
  }

  // Some steps of weights, and of the values of 32 columns.
  struct Steps {
    const float* weights0;  // tiles, one after the other: 16 query rows of 32 weights
    const float* weights1;
    const float* values;  // of each step a tile of the even columns, and one of the odd
    std::int64_t count;
  };

  // Adds weighted values to the sums of kTiles x 16 rows, `row_bytes` apart, the even columns
  // first. kChunks: of 32 columns, side by side, their values kChunkFloats apart.
  template <int kTiles, int kChunks, std::int64_t kChunkFloats, class Lines>
  static void add_values(const Steps& steps, float* sums0, float* sums1, std::int64_t row_bytes,
                         Lines& all_lines) {
    static_assert(kTiles * kChunks <= 2);
    Lines lines = all_lines;
    float* const second = kTiles == 2 ? sums1 : sums0 + 32;
    S::template load_tile<0>(sums0, row_bytes);
    S::template load_tile<1>(sums0 + 16, row_bytes);
    if constexpr (kTiles * kChunks == 2) {
      S::template load_tile<2>(second, row_bytes);
      S::template load_tile<3>(second + 16, row_bytes);
    }
    const float *weights0 = steps.weights0, *weights1 = steps.weights1, *values = steps.values;
    for (std::int64_t left = steps.count; left > 0; --left) {
      S::template load_tile<4>(weights0, kRowBytes);
      S::template load_tile<6>(values, kRowBytes);
      S::template multiply_tiles<0, 4, 6>();
      S::template load_tile<7>(values + kTileFloats, kRowBytes);
      S::template multiply_tiles<1, 4, 7>();
      lines.advance(kPairWork);
      if constexpr (kTiles == 2) {
        S::template load_tile<5>(weights1, kRowBytes);
        S::template multiply_tiles<2, 5, 6>();
        S::template multiply_tiles<3, 5, 7>();
        lines.advance(kPairWork);
      }
      if constexpr (kChunks == 2) {
        S::template load_tile<5>(values + kChunkFloats, kRowBytes);
        S::template multiply_tiles<2, 4, 5>();
        S::template load_tile<6>(values + kChunkFloats + kTileFloats, kRowBytes);
        S::template multiply_tiles<3, 4, 6>();
        lines.advance(kPairWork);
      }
      weights0 += kTileFloats;
      weights1 += kTileFloats;
      values += 2 * kTileFloats;
    }
    S::template store_tile<0>(sums0, row_bytes);
    S::template store_tile<1>(sums0 + 16, row_bytes);
    if constexpr (kTiles * kChunks == 2) {
      S::template store_tile<2>(second, row_bytes);
      S::template store_tile<3>(second + 16, row_bytes);
    }
    all_lines = lines;
  }
};

}  // namespace quire
