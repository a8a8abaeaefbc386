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

#include "quire/cpu/attention/score_tile.h"
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

// How int8 key rows meet queries: of a prepared query row, q_stride numbers of 16 bits, the first
// half are its own, and then comes its factor.
struct Int16Product {};
template <class S>
struct KeyDot<S, Int16Product> : RowDot<S, std::int16_t, Int8, 2 * S::kWidth> {
  using Sum = typename S::Ints;
  using Chunk = typename S::Ints;

  static Sum start(int) { return S::zero_ints(); }
  static Chunk load(const Int8* p) { return S::load_ints(p); }
  static Chunk load(const Int8* p, int n) { return S::load_ints(p, n); }
  Sum add(Sum sum, int r, std::int64_t d, Chunk k) const {
    return S::dot(sum, S::load_ints(this->query(r, d)), k);
  }
  template <int R>
  void finish(const Sum* sums, float* totals) const {
    constexpr int kKeys = S::kAccumulators / R;
#pragma GCC unroll 16
    for (int i = 0; i < S::kAccumulators; i += S::kWidth) {
      typename S::Vec lanes[S::kWidth];
#pragma GCC unroll 16
      for (int j = 0; j < S::kWidth; ++j) lanes[j] = S::to_floats(sums[i + j]);
      S::store(totals + i, S::transpose_add(lanes));
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      float factor;
      __builtin_memcpy(&factor, this->query(r, this->q_stride / 2), sizeof factor);
#pragma GCC unroll 16
      for (int j = 0; j < kKeys; ++j) totals[r * kKeys + j] *= factor;
    }
  }
};

using RowMask = unsigned;  // a bit for each row of a group

// Weights of a tile's keys as 16-bit numbers, [kMostRows][kDirectKeys + 1 and padding], 0 past the
// last, and their factors.
template <class S>
struct IntegerWeights {
  using Vec = typename S::Vec;
  static constexpr int kMostRows = 4;
  static constexpr int kStride = kDirectKeys + 2;
  static constexpr int kVectors = kDirectKeys / S::kWidth;

  alignas(64) std::int16_t numbers[kMostRows * kStride];
  float factors[kMostRows];

  // Rows [0, count) of `weights`, of the keys [begin, end). Returns those that ask for floats.
  RowMask round(const float* weights, int count, int begin, int end) {
    RowMask asking = 0;
    for (int r = 0; r < count; ++r) {
      Vec x[kVectors];
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) x[i] = load(weights + r * kDirectKeys, i, begin, end);
      asking |= RowMask{round(r, x)} << r;
    }
    return asking;
  }

  // Vector i of a row's weights, 0 but for the keys [begin, end).
  static Vec load(const float* weights, int i, int begin, int end) {
    return S::select(S::lanes(begin - i * S::kWidth, end - i * S::kWidth),
                     S::load(weights + i * S::kWidth), S::zero());
  }

  // Row r, which is x. Returns whether it asks for floats. It has no weights here then: nothing is
  // added to it, not even to a -0, as what is added is one.
  bool round(int r, const Vec (&x)[kVectors]) {
    Vec most = S::zero();
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) most = S::max(most, x[i]);
    const float largest = S::reduce_max(most);
    const bool has_numbers = largest >= IntegerRow<S>::kSmallest;  // else too small to count
    const Vec times = S::set1(has_numbers ? IntegerRow<S>::kMost / largest : 0.0f);
    std::int16_t* const to = numbers + r * kStride;
    Vec squares = S::zero();
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      const Vec number = S::mul(x[i], times);
      squares = S::fma(number, number, squares);
      S::store(to + i * S::kWidth, number);
    }
    to[kDirectKeys] = 0;
    factors[r] = has_numbers ? largest / IntegerRow<S>::kMost : 0.0f;
    if (!(largest > 0 && IntegerRow<S>::has_lost_others(S::reduce_add(squares)))) return false;
    for (int i = 0; i < kDirectKeys; ++i) to[i] = 0;
    factors[r] = -0.0f;
    return true;
  }
};

// Value rows of an int8 cache, as whole numbers.
template <class S>
struct Int8Row {
  using Ints = typename S::Ints;
  static constexpr int kVectors = 2;  // of two rows, for a chunk of their columns
  static constexpr int kChunk = 2 * S::kWidth;

  static std::int64_t bytes_of(std::int64_t columns) { return columns; }
  static Ints load(const std::byte* p) { return S::load_ints(reinterpret_cast<const Int8*>(p)); }
  static Ints load(const std::byte* p, int n) {
    return S::load_ints(reinterpret_cast<const Int8*>(p), n);
  }
  static void pair_up(Ints a, Ints b, Ints* to) { S::pair_up(a, b, to[0], to[1]); }
};

// Two such rows, or others; past the last key its row again, whose weight is 0.
template <class S, class Row, bool kWhole>
struct IntegerColumns {
  TileRows rows;
  std::int64_t column;
  int rest;

  struct Entry {
    const std::byte* first;
    const std::byte* second;
  };
  Entry entry(std::int64_t key, int end) const {
    return {row(key), row(key + 1 < end ? key + 1 : key)};
  }

  void load(const Entry& entry, std::int64_t offset, typename S::Ints* to) const {
    if constexpr (kWhole) {
      const std::int64_t bytes = Row::bytes_of(offset);
      Row::pair_up(Row::load(entry.first + bytes), Row::load(entry.second + bytes), to);
    } else {
      Row::pair_up(Row::load(entry.first, rest), Row::load(entry.second, rest), to);
    }
  }

 private:
  const std::byte* row(std::int64_t key) const {
    return rows.rows[key] + rows.offset + Row::bytes_of(column);
  }
};

// Whole numbers times such weights, two keys at a time; where sums begin and go to is the cache's
// own.
template <class S, class Row>
struct IntegerTerms {
  using Sum = typename S::Ints;
  using Vector = typename S::Ints;
  static constexpr int kVectors = Row::kVectors;
  static constexpr int kChunk = Row::kChunk;

  const std::int16_t* numbers;  // of IntegerWeights, from the first row on
  const ValueSpan& span;

  template <bool kWhole>
  IntegerColumns<S, Row, kWhole> columns(std::int64_t d, int rest) const {
    return {span.rows, d, rest};
  }
  template <int, class Add>
  void for_entries(int begin, int end, Add add) const {
    for (std::int64_t key = begin; key < end; key += 2) add(key, numbers);
  }
  static Vector factor(const std::int16_t* numbers, std::int64_t key, int r) {
    return S::set1_pair(numbers + r * IntegerWeights<S>::kStride + key);
  }
  static Sum add(Sum sum, Vector factor, Vector v) { return S::dot(sum, factor, v); }
  float* values(int r, std::int64_t d) const { return span.values + r * span.values_stride + d; }
};

// values[r] += factor[r] * the sum over keys of weights[r][key] * value row.
template <class S>
struct Int8Terms : IntegerTerms<S, Int8Row<S>> {
  using Sum = typename S::Ints;
  static constexpr int kMostChunks = 4;
  static constexpr int kWork = 2 * kValueWork;

  const float* factors;

  static Sum start(int, std::int64_t, int) { return S::zero_ints(); }
  template <bool>
  void finish(int r, std::int64_t d, int, const Sum* sums) const {
    const auto factor = S::set1(factors[r]);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      float* const to = this->values(r, d) + i * S::kWidth;
      S::store(to, S::fma(S::to_floats(sums[i]), factor, S::load(to)));
    }
  }
};

template <class S>
struct Int8Values {
  template <int R>
  static void run(const IntegerWeights<S>& weights, const ValueSpan& span, LineQueue<S>& lines) {
    ValueTile<S, Int8Terms<S>>::template run<R>({{weights.numbers, span}, weights.factors},
                                                span.begin, span.end, span.v_head_dim, lines);
  }
};

}  // namespace quire
