// The two products of attention on one tile of an int8 cache, in whole numbers.
//
// Keys and values are whole numbers already. Queries and weights become some of 16 bits, times a
// factor for each row, and pairs of products are added up in 32 bits: half the instructions that
// widening each key to a float takes.
//
// What is rounded so is rounded relative to the largest of its row, and beside one that is much
// larger than the others little is left of them. So a row asks for floats in the tiles where that
// would show, by what it is and what the tile's keys are, whatever rows it shares the tile with.
#pragma once

#include <cstdint>

#include "quire/cpu/attention/direct_tile.h"
#include "quire/cpu/cache/quantise_row.h"

namespace quire {

// A row of floats as 16-bit numbers times a factor.
template <class S>
struct IntegerRow {
  using Rows = AttentionRows<S>;
  static constexpr float kMost = 32767.0f;
  static constexpr float kSmallest = 0x1p-120f;  // what is smaller counts for nothing

  // The longest head whose products with int8 rows, |k| <= 128, add up in lanes of 32 bits.
  static constexpr std::int64_t kMostHeadDim = 512 * S::kWidth;

  // `count` floats, a multiple of kWidth, to as many numbers; returns the factor. Where a float is
  // not finite that is NaN.
  static float round(const float* from, std::int64_t count, std::int16_t* to) {
    const float largest =
        QuantiseRow<S>::largest(reinterpret_cast<const std::byte*>(from), DType::float32, count);
    const float factor = largest / kMost;
    const bool has_numbers = factor >= kSmallest;  // else all are 0, or one is NaN
    const typename S::Vec times = S::set1(has_numbers ? kMost / largest : 0.0f);
    for (std::int64_t i = 0; i < count; i += S::kWidth) {
      S::store(to + i, has_numbers ? S::mul(S::load(from + i), times) : S::zero());
    }
    return factor;
  }

  // Numbers that are off by up to half of `factor`, so by factor / sqrt(12) in the mean, make
  // scores off by kScoreError, in the mean, where the root of the mean square of what they are
  // multiplied by is tolerance(task) / factor.
  static constexpr float kScoreError = 1e-4f;
  static float tolerance(const AttentionTask& task) {
    const double elements = __builtin_sqrt(static_cast<double>(task.head_dim) / 12);
    return Rows::finite(kScoreError / (elements * Rows::score_scale(task)));
  }

  // Whether one of some numbers, whose largest is kMost and which are weights, is that much larger
  // than all others that those are lost beside it: by the sum of their squares.
  static bool has_lost_others(float squares) { return squares < 1.1f * kMost * kMost; }
};

// How an int8 key row meets a query: of a prepared query row, q_stride numbers of 16 bits, the
// first half are its own, and then comes its factor.
struct Int16Product {};
template <class S>
struct KeyDot<S, Int16Product> {
  using Vec = typename S::Vec;
  using Sum = typename S::Ints;
  using Chunk = typename S::Ints;
  static constexpr int kChunk = 2 * S::kWidth;
  using Query = std::int16_t;
  using Key = Int8;
  static constexpr bool kHasFactor = true;

  static Sum zero() { return S::zero_ints(); }
  static Chunk load_query(const std::int16_t* p) { return S::load_ints(p); }
  static Chunk load_key(const Int8* p) { return S::load_ints(p); }
  static Chunk load_key(const Int8* p, int n) { return S::load_ints(p, n); }
  static Sum add(Sum sum, Chunk q, Chunk k) { return S::dot(sum, q, k); }
  static Vec total(Sum sum) { return S::to_floats(sum); }
  static float factor(const std::int16_t* q, std::int64_t q_stride) {
    float factor;
    __builtin_memcpy(&factor, q + q_stride / 2, sizeof factor);
    return factor;
  }
};

using RowMask = unsigned;  // a bit for each row of a group

// The weights of some rows as 16-bit numbers, [kMostRows][kDirectKeys + 1 and padding], 0 past the
// last, and their factors.
template <class S>
struct IntegerWeights {
  static constexpr int kMostRows = 4;
  static constexpr int kStride = kDirectKeys + 2;

  alignas(64) std::int16_t numbers[kMostRows * kStride];
  float factors[kMostRows];

  // Rows [0, count) of `weights`, of the keys [begin, end). Returns those that ask for floats,
  // which have no weights here.
  RowMask round(const float* weights, int count, int begin, int end) {
    constexpr int kVectors = kDirectKeys / S::kWidth;
    RowMask asking = 0;
    for (int r = 0; r < count; ++r) {
      typename S::Vec x[kVectors];
      typename S::Vec most = S::zero();
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) {
        x[i] = S::select(S::lanes(begin - i * S::kWidth, end - i * S::kWidth),
                         S::load(weights + r * kDirectKeys + i * S::kWidth), S::zero());
        most = S::max(most, x[i]);
      }
      const float largest = S::reduce_max(most);
      const bool has_numbers = largest >= IntegerRow<S>::kSmallest;
      const typename S::Vec times = S::set1(has_numbers ? IntegerRow<S>::kMost / largest : 0.0f);
      typename S::Vec squares = S::zero();
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) {
        const typename S::Vec number = S::mul(x[i], times);
        squares = S::fma(number, number, squares);
        S::store(numbers + r * kStride + i * S::kWidth, number);
      }
      numbers[r * kStride + kDirectKeys] = 0;
      factors[r] = has_numbers ? largest / IntegerRow<S>::kMost : 0.0f;
      if (largest > 0 && IntegerRow<S>::has_lost_others(S::reduce_add(squares))) {
        asking |= RowMask{1} << r;
        leave_out(r);
      }
    }
    return asking;
  }

  // Nothing is added to row r: not even to a -0, as what is added is one.
  void leave_out(int r) {
    for (int i = 0; i < kDirectKeys; ++i) numbers[r * kStride + i] = 0;
    factors[r] = -0.0f;
  }
};

// values[r] += factor[r] * the sum over keys of weights[r][key] * value row, for R rows and the
// keys [key_begin, key_end), two at a time.
template <class S>
struct IntegerValueTile {
  using Ints = typename S::Ints;
  using Weights = IntegerWeights<S>;
  static constexpr int kChunk = 2 * S::kWidth;

  template <int R>
  static void run(const Weights& weights, TileRows rows, int key_begin, int key_end,
                  std::int64_t v_head_dim, float* values, std::int64_t values_stride,
                  LineQueue<S>& lines) {
    const Span span{weights, rows, key_begin, key_end, values, values_stride};
    constexpr int kMost = S::kAccumulators / (2 * R);
    std::int64_t d = 0;
    if constexpr (kMost >= 4) d = columns<R, 4>(span, d, v_head_dim, lines);
    if constexpr (kMost >= 2) d = columns<R, 2>(span, d, v_head_dim, lines);
    d = columns<R, 1>(span, d, v_head_dim, lines);
    if (const int rest = static_cast<int>(v_head_dim - d); rest > 0) {
      block<R, 1>(span, d, [rest](const Int8* p) { return S::load_ints(p, rest); }, lines);
    }
  }

 private:
  struct Span {
    const Weights& weights;
    TileRows rows;
    int key_begin, key_end;
    float* values;
    std::int64_t values_stride;
  };

  // As many blocks of C chunks of columns as there are from d on; returns where they end.
  template <int R, int C>
  static std::int64_t columns(const Span& span, std::int64_t d, std::int64_t v_head_dim,
                              LineQueue<S>& lines) {
    for (; d + C * kChunk <= v_head_dim; d += C * kChunk) {
      block<R, C>(span, d, [](const Int8* p) { return S::load_ints(p); }, lines);
    }
    return d;
  }

  template <int R, int C, class LoadInts>
  static void block(const Span& span, std::int64_t d, LoadInts load_ints, LineQueue<S>& queue) {
    LineQueue<S> lines = queue;  // in registers
    Ints sums[R][2 * C];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < 2 * C; ++i) sums[r][i] = S::zero_ints();
    }
    for (int key = span.key_begin; key < span.key_end; key += 2) {
      // past the last key its row is taken again, times 0
      const Int8* const a = at(span.rows, key, d);
      const Int8* const b = at(span.rows, key + 1 < span.key_end ? key + 1 : key, d);
      Ints lo[C], hi[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        S::pair_up(load_ints(a + c * kChunk), load_ints(b + c * kChunk), lo[c], hi[c]);
      }
      lines.advance(2 * R * C * kValueWork);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Ints weight = S::set1_pair(span.weights.numbers + r * Weights::kStride + key);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
          sums[r][2 * c] = S::dot(sums[r][2 * c], weight, lo[c]);
          sums[r][2 * c + 1] = S::dot(sums[r][2 * c + 1], weight, hi[c]);
        }
      }
    }
    queue = lines;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const auto factor = S::set1(span.weights.factors[r]);
#pragma GCC unroll 8
      for (int i = 0; i < 2 * C; ++i) {
        float* const to = span.values + r * span.values_stride + d + i * S::kWidth;
        S::store(to, S::fma(S::to_floats(sums[r][i]), factor, S::load(to)));
      }
    }
  }

  static const Int8* at(TileRows rows, int key, std::int64_t d) {
    return reinterpret_cast<const Int8*>(rows.rows[key] + rows.offset) + d;
  }
};

}  // namespace quire
