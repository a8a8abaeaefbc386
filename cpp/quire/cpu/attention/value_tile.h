// Sums over the keys of one tile, held in registers: values times weights, and scores of panels.
//
// A group of R query rows goes through the tile together, so that each entry is loaded and
// converted once for R rows, C chunks of its columns at a time:
//
//   sums[r][column] = start + the sum over entries of factor(r, entry) * column of the entry
//
// What all of these are is told by Terms, a struct for each way to multiply (FloatTerms below,
// integer_tile.h, int4_tile.h); how the rows of a cache become vectors, by their columns.
#pragma once

#include "quire/cpu/attention/line_queue.h"
#include "quire/cpu/attention/value_columns.h"

namespace quire {

// Work, for a LineQueue, in thirds of a multiply-add of two vectors: of a row, an entry and a
// chunk of two vectors.
inline constexpr int kValueWork = 3;

// Terms have
//   Sum, Vector                what is summed up, and what is loaded
//   kChunk, kVectors           columns of a chunk, and vectors that hold them
//   kMostChunks                chunks that are worth their registers
//   kWork                      of a row and a chunk, for each add() of an entry, for a LineQueue
//   columns<kWhole>(d, rest)   the columns from d on, `rest` of them where they are no whole chunk:
//                              their entry(i, end) is looked up once for all that they load of it,
//                              load(entry, columns after d, vectors)
//   start(r, d, i)             of vector i of row r from column d on
//   for_entries<R>(begin, end, add)    calls add(entry, factors) for them in order
//   factor(factors, entry, r), add(sum, factor, vector)
//   finish<kWhole>(r, d, rest, sums)   where those of a chunk go
template <class S, class Terms>
struct ValueTile {
  using Lines = LineQueue<S>;

  // R rows, the entries [begin, end) and all columns.
  template <int R>
  static void run(const Terms& terms, int begin, int end, std::int64_t num_columns, Lines& lines) {
    constexpr int kFitting = S::kAccumulators / (Terms::kVectors * R);
    constexpr int kMost = kFitting < Terms::kMostChunks ? kFitting : Terms::kMostChunks;
    std::int64_t d = 0;
    if constexpr (kMost >= 4) d = blocks<R, 4>(terms, begin, end, d, num_columns, lines);
    if constexpr (kMost >= 2) d = blocks<R, 2>(terms, begin, end, d, num_columns, lines);
    d = blocks<R, 1>(terms, begin, end, d, num_columns, lines);
    if (const int rest = static_cast<int>(num_columns - d); rest > 0) {
      block<R, 1, false>(terms, begin, end, d, rest, lines);
    }
  }

  // The same of one chunk.
  template <int R>
  static void run_chunk(const Terms& terms, int begin, int end, Lines& lines) {
    block<R, 1, true>(terms, begin, end, 0, Terms::kChunk, lines);
  }

 private:
  // As many blocks of C chunks as there are from d on; returns where they end.
  template <int R, int C>
  static std::int64_t blocks(const Terms& terms, int begin, int end, std::int64_t d,
                             std::int64_t num_columns, Lines& lines) {
    for (; d + C * Terms::kChunk <= num_columns; d += C * Terms::kChunk) {
      block<R, C, true>(terms, begin, end, d, Terms::kChunk, lines);
    }
    return d;
  }

  template <int R, int C, bool kWhole>
  static void block(const Terms& terms, int begin, int end, std::int64_t d, int rest,
                    Lines& queue) {
    constexpr int kVectors = Terms::kVectors * C;
    Lines lines = queue;  // in registers
    typename Terms::Sum sums[R][kVectors];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) sums[r][i] = terms.start(r, d, i);
    }
    const auto columns = terms.template columns<kWhole>(d, rest);
    const std::int64_t credit = lines.credit_of(R * C * Terms::kWork);
    terms.template for_entries<R>(begin, end, [&](std::int64_t i, const auto* factors) {
      const auto entry = columns.entry(i, end);
      typename Terms::Vector v[kVectors];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) columns.load(entry, c * Terms::kChunk, v + c * Terms::kVectors);
      lines.earn(credit);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const auto factor = Terms::factor(factors, i, r);
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) sums[r][j] = Terms::add(sums[r][j], factor, v[j]);
      }
    });
    queue = lines;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        terms.template finish<kWhole>(r, d + c * Terms::kChunk, rest,
                                      sums[r] + c * Terms::kVectors);
      }
    }
  }
};

// What is summed up of a tile's values, but for the weights.
struct ValueSpan {
  TileRows rows;
  int begin, end;  // entries
  std::int64_t v_head_dim;
  float* values;  // of the group's first row, added to
  std::int64_t values_stride;
};

// Floats times floats, or pairs of bfloat16 times such, of rows kStride apart.
template <class S, class Source, class Product, int kStride>
struct FloatTerms {
  using Sum = typename S::Vec;
  using Vector = typename S::Vec;
  static constexpr int kVectors = 2;
  static constexpr int kChunk = 2 * S::kWidth;
  static constexpr int kMostChunks = 4;
  static constexpr int kWork = kValueWork;

  const float* weights;
  Source source;
  float* values;
  std::int64_t values_stride;

  template <bool kWhole>
  auto columns(std::int64_t d, int rest) const {
    return source.template columns<kWhole>(d, rest);
  }
  Sum start(int r, std::int64_t d, int i) const {
    return S::load(values + r * values_stride + d + i * S::kWidth);
  }
  template <int, class Add>
  void for_entries(int begin, int end, Add add) const {
    for (std::int64_t entry = begin; entry < end; ++entry) add(entry, weights);
  }
  static Vector factor(const float* weights, std::int64_t entry, int r) {
    return S::set1(weights[r * kStride + entry]);
  }
  static Sum add(Sum sum, Vector factor, Vector v) { return Product::add(sum, factor, v); }
  template <bool>
  void finish(int r, std::int64_t d, int, const Sum* sums) const {
    float* const to = values + r * values_stride + d;
    S::store(to, sums[0]);
    S::store(to + S::kWidth, sums[1]);
  }
};

// values[r] += the sum over entries of weights[r][entry] * values of the entry's keys. Pairs of
// weights are bfloat16. Rows of weights are kKeys floats apart, or as many bfloat16s.
template <class S, class T, class Product, int kKeys>
struct FloatValues {
  template <int R>
  static void run(const float* weights, const ValueSpan& span, LineQueue<S>& lines) {
    using Terms = FloatTerms<S, CacheValues<S, T, Product>, Product, kKeys / Product::kElements>;
    ValueTile<S, Terms>::template run<R>({weights, {span.rows}, span.values, span.values_stride},
                                         span.begin, span.end, span.v_head_dim, lines);
  }
};

}  // namespace quire
