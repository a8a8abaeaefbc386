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

// A pair of rows of an int8 cache, past the last key that row again, whose weight is 0.
template <class S, bool kWhole>
struct IntegerColumns {
  TileRows rows;
  std::int64_t column;
  int rest;

  struct Entry {
    const Int8* first;
    const Int8* second;
  };
  Entry entry(int key, int end) const { return {row(key), row(key + 1 < end ? key + 1 : key)}; }

  void load(const Entry& entry, std::int64_t offset, typename S::Ints* to) const {
    if constexpr (kWhole) {
      S::pair_up(S::load_ints(entry.first + offset), S::load_ints(entry.second + offset), to[0],
                 to[1]);
    } else {
      S::pair_up(S::load_ints(entry.first, rest), S::load_ints(entry.second, rest), to[0], to[1]);
    }
  }

 private:
  const Int8* row(int key) const {
    return reinterpret_cast<const Int8*>(rows.rows[key] + rows.offset) + column;
  }
};

// values[r] += factor[r] * the sum over keys of weights[r][key] * value row, two keys at a time.
template <class S>
struct IntegerTerms {
  using Sum = typename S::Ints;
  using Vector = typename S::Ints;
  using Weights = IntegerWeights<S>;
  static constexpr int kVectors = 2;
  static constexpr int kChunk = 2 * S::kWidth;
  static constexpr int kMostChunks = 4;
  static constexpr int kWork = 2 * kValueWork;

  const Weights& weights;
  const ValueSpan& span;

  template <bool kWhole>
  IntegerColumns<S, kWhole> columns(std::int64_t d, int rest) const {
    return {span.rows, d, rest};
  }
  static Sum start(int, std::int64_t, int) { return S::zero_ints(); }
  template <int, class Add>
  void for_entries(int begin, int end, Add add) const {
    for (int key = begin; key < end; key += 2) add(key, weights.numbers + key);
  }
  static Vector factor(const std::int16_t* numbers, int r) {
    return S::set1_pair(numbers + r * Weights::kStride);
  }
  static Sum add(Sum sum, Vector factor, Vector v) { return S::dot(sum, factor, v); }
  template <bool>
  void finish(int r, std::int64_t d, int, const Sum* sums) const {
    const auto factor = S::set1(weights.factors[r]);
    float* const to = span.values + r * span.values_stride + d;
#pragma GCC unroll 2
    for (int i = 0; i < kVectors; ++i) {
      float* const p = to + i * S::kWidth;
      S::store(p, S::fma(S::to_floats(sums[i]), factor, S::load(p)));
    }
  }
};

template <class S>
struct IntegerValues {
  template <int R>
  static void run(const IntegerWeights<S>& weights, const ValueSpan& span, LineQueue<S>& lines) {
    ValueTile<S, IntegerTerms<S>>::template run<R>({weights, span}, span.begin, span.end,
                                                   span.v_head_dim, lines);
  }
};

}  // namespace quire
