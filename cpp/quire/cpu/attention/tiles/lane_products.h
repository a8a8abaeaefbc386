// The two products of attention in tiles once more, by multiply-adds of vectors: for few query
// rows, of which tiles would be mostly empty.
//
// The order of sums is that of tiles, as simd/tile_model.h says it: of each 32 products the even and
// the odd ones apart, in order, from zero; then both together; then onto what is there. Products of
// bfloat16s are exact in float32, so that the bits are those of tiles as well.
#pragma once

#include "quire/cpu/attention/tiles/tile_words.h"

namespace quire {

template <class S>
struct LaneProducts {
  using Vec = typename S::Vec;
  using Words = TileWords<S>;
  using KeyRows = typename Words::KeyRows;
  static constexpr int kLanes = TileGrid::kRows;
  static constexpr int kStep = TileGrid::kStep;
  static constexpr int kMostRows = 8;  // whose sums find room in registers

  // In half cycles: of 32 columns of 16 keys turning them over, and their products with a row; of 32
  // columns of two values, and their products with a row.
  static constexpr int kTurnWork = 128;
  static constexpr int kScoreWork = 32;
  static constexpr int kWidenWork = 4;
  static constexpr int kValueWork = 4;

  // Of 32 keys and kCount query rows of floats, `stride` of them apart: to[row][key], rows kKeys
  // apart. `chunks`: of 32 columns, with zeros after the last.
  template <int kCount, class Lines>
  static void score_step(const KeyRows* keys, const float* queries, std::int64_t stride,
                         std::int64_t chunks, float* to, Lines& lines) {
    // a row has two sums at a time, which wait for each other: those of more keys as well
    constexpr int kBlocks = kCount <= 2 ? 2 : 1;
    for (int block = 0; block < 2; block += kBlocks) {
      score<kCount, kBlocks>(keys + block, queries, stride, chunks, to + block * kLanes, lines);
    }
  }

  // Some steps of the values of a KV head, and of their weights.
  struct Steps {
    const BFloat16* const* rows;  // of each key
    std::int64_t columns;
    const float* weights;  // [key][kLanes], from the first row on
    int first, last;       // steps
  };

  // Adds kChunks x 32 columns of weighted values, from `column` on, to the sums of kCount rows,
  // `stride` apart; of each 32 the even columns first. kWhole: there are so many columns.
  template <int kCount, int kChunks, bool kWhole, class Lines>
  [[gnu::flatten]] static void add_values(const Steps& steps, std::int64_t column, float* sums, std::int64_t stride,
                         Lines& all_lines) {
    Lines lines = all_lines;
    const std::int64_t credit =
        lines.credit_of(2 * kChunks * (kWidenWork + kCount * kValueWork));
    for (int step = steps.first; step < steps.last; ++step) {
      const BFloat16* const* const rows = steps.rows + step * kStep;
      const float* const weights = steps.weights + step * kStep * kLanes;
      for (int lane = 0; lane < kLanes; lane += S::kWidth) {
        Vec apart[2][kCount][2 * kChunks];  // of even keys, of odd ones
        for (auto& of_parity : apart) {
          for (auto& of_row : of_parity) {
            for (Vec& sum : of_row) sum = S::zero();
          }
        }
        for (int first = 0; first < kStep; first += 4) {
#pragma GCC unroll 4
          for (int key = first; key < first + 4; ++key) {
            Vec values[2 * kChunks];
#pragma GCC unroll 4
            for (int i = 0; i < kChunks; ++i) {
              const auto two = S::widen(Words::template load<kWhole>(
                  rows[key] + column, i * 32 + 2 * lane, steps.columns - column));
              values[2 * i] = two.lo;
              values[2 * i + 1] = two.hi;
            }
#pragma GCC unroll 4
            for (int r = 0; r < kCount; ++r) {
              const Vec weight = S::set1(weights[key * kLanes + r]);
#pragma GCC unroll 8
              for (int i = 0; i < 2 * kChunks; ++i) {
                Vec& sum = apart[(key - first) % 2][r][i];
                sum = S::fma(values[i], weight, sum);
              }
            }
          }
          if (lane == 0) lines.earn(credit);
        }
#pragma GCC unroll 4
        for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 8
          for (int i = 0; i < 2 * kChunks; ++i) {
            float* const to = sums + r * stride + i * kLanes + lane;
            S::store(to, S::add(S::load(to), S::add(apart[0][r][i], apart[1][r][i])));
          }
        }
      }
    }
    all_lines = lines;
  }

 private:
  // Of kBlocks x 16 keys. Flat, as sums do not stay in registers across a call, of lines.earn() for
  // one.
  template <int kCount, int kBlocks, class Lines>
  [[gnu::flatten]] static void score(const KeyRows* keys, const float* queries, std::int64_t stride,
                                     std::int64_t chunks, float* to, Lines& all_lines) {
    static_assert(kCount <= kMostRows);
    constexpr int kGroups = kLanes / S::kWidth;
    Lines lines = all_lines;
    const std::int64_t credit =
        lines.credit_of(kBlocks * (kTurnWork + kCount * kScoreWork) / 4);
    Vec sums[kGroups][kBlocks][kCount];
    for (auto& of_group : sums) {
      for (auto& of_block : of_group) {
        for (Vec& sum : of_block) sum = S::zero();
      }
    }
    alignas(64) float words[kBlocks][Words::kTileFloats];
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk, queries += kStep) {
#pragma GCC unroll 2
      for (int b = 0; b < kBlocks; ++b) {
        const std::byte* const rows = keys[b].rows + chunk * Words::kRowBytes;
        Words::transpose(KeyRows{rows, keys[b].stride}, words[b]);
      }
      for (int lane = 0; lane < kLanes; lane += S::kWidth) {
        Vec even[kBlocks][kCount], odd[kBlocks][kCount];
        for (int b = 0; b < kBlocks; ++b) {
          for (int r = 0; r < kCount; ++r) even[b][r] = odd[b][r] = S::zero();
        }
        for (int first = 0; first < 16; first += 4) {
#pragma GCC unroll 4
          for (int pair = first; pair < first + 4; ++pair) {
#pragma GCC unroll 2
            for (int b = 0; b < kBlocks; ++b) {
              const auto key = S::widen(S::load(words[b] + pair * kLanes + lane));
#pragma GCC unroll 8
              for (int r = 0; r < kCount; ++r) {
                const float* const q = queries + r * stride + 2 * pair;
                even[b][r] = S::fma(key.lo, S::set1(q[0]), even[b][r]);
                odd[b][r] = S::fma(key.hi, S::set1(q[1]), odd[b][r]);
              }
            }
          }
          if (lane == 0) lines.earn(credit);
        }
        for (int b = 0; b < kBlocks; ++b) {
          for (int r = 0; r < kCount; ++r) {
            Vec& sum = sums[lane / S::kWidth][b][r];
            sum = S::add(sum, S::add(even[b][r], odd[b][r]));
          }
        }
      }
    }
    for (int group = 0; group < kGroups; ++group) {
      for (int b = 0; b < kBlocks; ++b) {
        for (int r = 0; r < kCount; ++r) {
          const int key = b * kLanes + group * S::kWidth;
          S::store(to + r * TileGrid::kKeys + key, sums[group][b][r]);
        }
      }
    }
    all_lines = lines;
  }
};

}  // namespace quire
