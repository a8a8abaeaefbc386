// The scores of one tile of keys, read where they lie.
//
// A group of R query rows goes through the tile together, so that each key is loaded and converted
// once for R rows.
#pragma once

#include <cstdint>

#include "quire/cpu/attention/value_tile.h"

namespace quire {

// The most keys that this path takes at a time: scores and weights of a row are so far apart.
inline constexpr int kDirectKeys = 64;

// Work, as kValueWork, that each step of a key takes.
inline constexpr int kScoreWork = 5;
inline constexpr int kDirectWeighWork = 8;  // of one row's softmax, for each key

// scores[r][key] = row r . key, for R rows and the keys [begin, end) of a tile, as many keys at a
// time as there are accumulators for. How rows meet keys is what Dot says, a struct for each way:
//
//   Sum, Chunk, kChunk          what is summed up, and what is loaded of a key: so many elements
//   kWork                       of a row, a key and a chunk, for a LineQueue
//   kExact                      neither are scores before `begin` and from `end` on written nor are
//                               keys there read, of which the tile has rows as well
//   start(r)                    of row r's sums
//   Key, place_of(d)            what a key row is made of, and where element d is in it
//   load(key), load(key, n)     n elements where there is no whole chunk
//   add(sum, r, d, chunk)       of row r from element d on
//   finish<R>(sums, totals)     kAccumulators of each
template <class S, class Dot>
struct ScoreTile {
  using Lines = LineQueue<S>;

  template <int R>
  static void run(const Dot& dot, std::int64_t head_dim, TileRows keys, int begin, int end,
                  float* scores, Lines& queue) {
    Lines lines = queue;  // in registers
    constexpr int kKeys = S::kAccumulators / R;
    for (int key = Dot::kExact ? begin : begin / kKeys * kKeys; key < end; key += kKeys) {
      float totals[S::kAccumulators];
      group<R>(dot, head_dim, keys, key, end, totals, lines);
      const int count = Dot::kExact && end - key < kKeys ? end - key : kKeys;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        float* const to = scores + r * kDirectKeys + key;
        if (count == kKeys) {
          __builtin_memcpy(to, totals + r * kKeys, kKeys * sizeof(float));
        } else {
          for (int j = 0; j < count; ++j) to[j] = totals[r * kKeys + j];
        }
      }
    }
    queue = lines;
  }

 private:
  template <int R>
  static void group(const Dot& dot, std::int64_t head_dim, TileRows keys, int key, int end,
                    float* totals, Lines& lines) {
    constexpr int kKeys = S::kAccumulators / R;
    const std::byte* exact[kKeys];
    typename Dot::Sum sums[S::kAccumulators];
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {  // past the last key its row is taken again
      if constexpr (Dot::kExact) exact[j] = row(keys, key + j < end ? key + j : end - 1);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[r * kKeys + j] = dot.start(r);
    }
    const auto at = [&](int j, std::int64_t d) {
      const std::byte* const first = Dot::kExact ? exact[j] : row(keys, key + j);
      return reinterpret_cast<const typename Dot::Key*>(first) + Dot::place_of(d);
    };
    const std::int64_t credit = lines.credit_of(R * kTogether<R> * Dot::kWork);
    std::int64_t d = 0;
    for (; d + Dot::kChunk <= head_dim; d += Dot::kChunk) {
      step<R>(dot, d, sums, credit, lines, [&](int j) { return Dot::load(at(j, d)); });
    }
    if (const int rest = static_cast<int>(head_dim - d); rest > 0) {
      step<R>(dot, d, sums, credit, lines, [&](int j) { return Dot::load(at(j, d), rest); });
    }
    dot.template finish<R>(sums, totals);
  }

  // Keys between lines that are asked for.
  template <int R>
  static constexpr int kTogether = S::kAccumulators / R < 4 ? S::kAccumulators / R : 4;

  template <int R, class Load>
  static void step(const Dot& dot, std::int64_t d, typename Dot::Sum* sums, std::int64_t credit,
                   Lines& lines, Load load) {
    constexpr int kKeys = S::kAccumulators / R;
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      if (j % kTogether<R> == 0) lines.earn(credit);
      const typename Dot::Chunk k = load(j);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        sums[r * kKeys + j] = dot.add(sums[r * kKeys + j], r, d, k);
      }
    }
  }

  static const std::byte* row(TileRows keys, int key) { return keys.rows[key] + keys.offset; }
};

// Prepared query rows, q_stride elements apart, and kElements of a key row at a time.
template <class S, class Query, class T, int kElements>
struct RowDot {
  using Key = T;
  static constexpr int kChunk = kElements;
  static constexpr int kWork = kScoreWork * (kChunk / (2 * S::kWidth));
  static constexpr bool kExact = false;

  const Query* q;
  std::int64_t q_stride;

  static std::int64_t place_of(std::int64_t d) { return d; }
  const Query* query(int r, std::int64_t d) const { return q + d + r * q_stride; }
};

// The same, whose products are summed up as floats.
template <class S, class Query, class T, int kElements>
struct FloatDot : RowDot<S, Query, T, kElements> {
  using Sum = typename S::Vec;

  static Sum start(int) { return S::zero(); }
  template <int>
  void finish(const Sum* sums, float* totals) const {
#pragma GCC unroll 16
    for (int i = 0; i < S::kAccumulators; i += S::kWidth) {
      Sum lanes[S::kWidth];
#pragma GCC unroll 16
      for (int j = 0; j < S::kWidth; ++j) lanes[j] = sums[i + j];
      S::store(totals + i, S::transpose_add(lanes));
    }
  }
};

// How key rows of dtype T meet queries in the order of lanes of T: in float32.
template <class S, class T>
struct KeyDot : FloatDot<S, float, T, 2 * S::kWidth> {
  using Vec = typename S::Vec;
  using Chunk = typename S::Pair;

  static Chunk load(const T* p) { return S::load_pair(p); }
  static Chunk load(const T* p, int n) { return S::load_pair(p, n); }
  Vec add(Vec sum, int r, std::int64_t d, Chunk k) const {
    const float* const p = this->query(r, d);
    return S::fma(S::load(p + S::kWidth), k.hi, S::fma(S::load(p), k.lo, sum));
  }
};

// float8 keys and a bfloat16 query, likewise: 64 elements a step, in the order of load_pairs.
struct Float8Product {};
template <class S>
struct KeyDot<S, Float8Product> : FloatDot<S, BFloat16, Float8E4M3, 4 * S::kWidth> {
  using Vec = typename S::Vec;
  using Chunk = typename S::Pairs64;
  static constexpr int kChunk = 4 * S::kWidth;

  // Of the first of kRun elements of a row in a prepared one.
  static constexpr int kRun = 8;
  static std::int64_t place_of_query(std::int64_t element) {
    const std::int64_t run = element / kRun % 8;
    return element / kChunk * kChunk + run % 2 * (kChunk / 2) + run / 2 * kRun;
  }
  static Chunk load(const Float8E4M3* p) { return S::load_pairs(p); }
  static Chunk load(const Float8E4M3* p, int n) { return S::load_pairs(p, n); }
  Vec add(Vec sum, int r, std::int64_t d, Chunk k) const {
    const BFloat16* const p = this->query(r, d);
    return S::dot(S::dot(sum, S::load_bits(p), k.lo), S::load_bits(p + kChunk / 2), k.hi);
  }
};

// The same where query and keys are both bfloat16 and the processor multiplies those.
struct BFloat16Product {};
template <class S>
struct KeyDot<S, BFloat16Product> : FloatDot<S, BFloat16, BFloat16, 2 * S::kWidth> {
  using Vec = typename S::Vec;
  using Chunk = typename S::Vec;

  static Chunk load(const BFloat16* p) { return S::load_bits(p); }
  static Chunk load(const BFloat16* p, int n) { return S::load_bits(p, n); }
  Vec add(Vec sum, int r, std::int64_t d, Chunk k) const {
    return S::dot(sum, S::load_bits(this->query(r, d)), k);
  }
};

// Scores of R prepared rows of queries.
template <class S, class T>
struct KeyScores {
  template <int R>
  static void run(const void* q, std::int64_t q_stride, std::int64_t head_dim, TileRows keys,
                  int begin, int end, float* scores, LineQueue<S>& lines) {
    KeyDot<S, T> dot;
    dot.q = static_cast<decltype(dot.q)>(q);
    dot.q_stride = q_stride;
    ScoreTile<S, KeyDot<S, T>>::template run<R>(dot, head_dim, keys, begin, end, scores, lines);
  }
};

}  // namespace quire
