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

// How a key row of dtype T meets a query: 2 * kWidth elements a step, in float32.
template <class S, class T>
struct KeyDot {
  using Vec = typename S::Vec;
  using Sum = Vec;  // of products; total() has a float in each lane
  using Chunk = typename S::Pair;
  static constexpr int kChunk = 2 * S::kWidth;
  using Query = float;  // element of a prepared query row, in the order of lanes of T
  using Key = T;

  static Chunk load_query(const float* p) { return {S::load(p), S::load(p + S::kWidth)}; }
  static Chunk load_key(const T* p) { return S::load_pair(p); }
  static Chunk load_key(const T* p, int n) { return S::load_pair(p, n); }
  static Vec add(Vec sum, Chunk q, Chunk k) { return S::fma(q.hi, k.hi, S::fma(q.lo, k.lo, sum)); }
  static Vec zero() { return S::zero(); }
  static Vec total(Vec sum) { return sum; }
  static constexpr bool kHasFactor = false;  // that a query row's products are multiplied by
};

// float8 keys and a bfloat16 query, likewise: 64 elements a step, in the order of load_pairs.
struct Float8Product {};
template <class S>
struct KeyDot<S, Float8Product> {
  using Vec = typename S::Vec;
  using Sum = Vec;
  using Chunk = typename S::Pairs64;
  using Query = BFloat16;
  using Key = Float8E4M3;
  static constexpr int kChunk = 4 * S::kWidth;

  // Of the first of kRun elements of a row in a prepared one.
  static constexpr int kRun = 8;
  static std::int64_t place_of(std::int64_t element) {
    const std::int64_t run = element / kRun % 8;
    return element / kChunk * kChunk + run % 2 * (kChunk / 2) + run / 2 * kRun;
  }
  static Chunk load_query(const BFloat16* p) {
    return {S::load_bits(p), S::load_bits(p + kChunk / 2)};
  }
  static Chunk load_key(const Float8E4M3* p) { return S::load_pairs(p); }
  static Chunk load_key(const Float8E4M3* p, int n) { return S::load_pairs(p, n); }
  static Vec add(Vec sum, Chunk q, Chunk k) { return S::dot(S::dot(sum, q.lo, k.lo), q.hi, k.hi); }
  static Vec zero() { return S::zero(); }
  static Vec total(Vec sum) { return sum; }
  static constexpr bool kHasFactor = false;
};

// The same where query and keys are both bfloat16 and the processor multiplies those.
struct BFloat16Product {};
template <class S>
struct KeyDot<S, BFloat16Product> {
  using Vec = typename S::Vec;
  using Sum = Vec;
  using Chunk = typename S::Vec;
  static constexpr int kChunk = 2 * S::kWidth;
  using Query = BFloat16;
  using Key = BFloat16;

  static Chunk load_query(const BFloat16* p) { return S::load_bits(p); }
  static Chunk load_key(const BFloat16* p) { return S::load_bits(p); }
  static Chunk load_key(const BFloat16* p, int n) { return S::load_bits(p, n); }
  static Vec add(Vec sum, Chunk q, Chunk k) { return S::dot(sum, q, k); }
  static Vec zero() { return S::zero(); }
  static Vec total(Vec sum) { return sum; }
  static constexpr bool kHasFactor = false;
};

// Work, as kValueWork, that each step takes.
inline constexpr int kScoreWork = 5;
inline constexpr int kDirectWeighWork = 8;  // of one row's softmax, for each key

// scores[r][key] = q[r] . key row, for R rows and the keys [key_begin, key_end) of a tile.
template <class S, class T>
struct ScoreTile {
  using Vec = typename S::Vec;
  using Dot = KeyDot<S, T>;
  using Query = typename Dot::Query;
  using Key = typename Dot::Key;
  static constexpr int kChunk = Dot::kChunk;

  template <int R>
  static void run(const void* q, std::int64_t q_stride, std::int64_t head_dim, TileRows keys,
                  int key_begin, int key_end, float* scores, LineQueue<S>& queue) {
    LineQueue<S> lines = queue;  // in registers
    constexpr int kKeys = S::kAccumulators / R;
    for (int key = key_begin / kKeys * kKeys; key < key_end; key += kKeys) {
      group<R, kKeys>(static_cast<const Query*>(q), q_stride, head_dim, keys, key, scores, lines);
    }
    queue = lines;
  }

 private:
  template <int R, int kKeys>
  static void group(const Query* q, std::int64_t q_stride, std::int64_t head_dim, TileRows keys,
                    int key, float* scores, LineQueue<S>& lines) {
    typename Dot::Sum sums[S::kAccumulators];
#pragma GCC unroll 16
    for (int i = 0; i < S::kAccumulators; ++i) sums[i] = Dot::zero();

    std::int64_t d = 0;
    for (; d + kChunk <= head_dim; d += kChunk) {
      step<R, kKeys>(q + d, q_stride, sums, lines,
                     [&](int j) { return Dot::load_key(row(keys, key + j) + d); });
    }
    if (const int rest = static_cast<int>(head_dim - d); rest > 0) {
      step<R, kKeys>(q + d, q_stride, sums, lines,
                     [&](int j) { return Dot::load_key(row(keys, key + j) + d, rest); });
    }

    float totals[S::kAccumulators];
#pragma GCC unroll 16
    for (int i = 0; i < S::kAccumulators; i += S::kWidth) {
      Vec lanes[S::kWidth];
#pragma GCC unroll 16
      for (int j = 0; j < S::kWidth; ++j) lanes[j] = Dot::total(sums[i + j]);
      S::store(totals + i, S::transpose_add(lanes));
    }
    if constexpr (Dot::kHasFactor) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const float factor = Dot::factor(q + r * q_stride, q_stride);
#pragma GCC unroll 16
        for (int j = 0; j < kKeys; ++j) totals[r * kKeys + j] *= factor;
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      __builtin_memcpy(scores + r * kDirectKeys + key, totals + r * kKeys, kKeys * sizeof(float));
    }
  }

  template <int R, int kKeys, class LoadKey>
  static void step(const Query* q, std::int64_t q_stride, typename Dot::Sum* sums,
                   LineQueue<S>& lines, LoadKey load_key) {
    constexpr int kTogether = kKeys < 4 ? kKeys : 4;  // keys between lines that are asked for
    constexpr int kWork = R * kTogether * kScoreWork * (kChunk / (2 * S::kWidth));
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      if (j % kTogether == 0) lines.advance(kWork);
      const typename Dot::Chunk k = load_key(j);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        auto& sum = sums[r * kKeys + j];
        sum = Dot::add(sum, Dot::load_query(q + r * q_stride), k);
      }
    }
  }

  static const Key* row(TileRows keys, int key) {
    return reinterpret_cast<const Key*>(keys.rows[key] + keys.offset);
  }
};

}  // namespace quire
