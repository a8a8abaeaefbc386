// The inner loop of attention with many query rows: R rows by two vectors of columns, kept in
// registers.
#pragma once

#include <cstdint>

#include "quire/cpu/packed_tile.h"

namespace quire {

// Columns of packed keys: kPanel keys, for entry i of the head.
template <class S>
struct KeyColumns {
  const float* panel;

  typename S::Pair load(std::int64_t i) const {
    const float* const p = panel + i * 2 * S::kWidth;
    return {S::load(p), S::load(p + S::kWidth)};
  }
};

// Columns of values where they lie: kPanel elements of the head from `column` on, or the `rest` of
// them, for entry i of the keys. An entry is a key or, with pairs, two.
template <class S, class T, class Product, bool kWhole>
struct ValueColumns {
  TileRows rows;
  std::int64_t column;
  int rest;

  typename S::Pair load(std::int64_t i) const {
    if constexpr (Product::kElements == 2) {
      return S::pair_up(bits(2 * i), bits(2 * i + 1));
    } else {
      if constexpr (kWhole) return S::load_pair(row(i));
      return S::load_pair(row(i), rest);
    }
  }

 private:
  const T* row(std::int64_t key) const {
    return reinterpret_cast<const T*>(rows.rows[key] + rows.offset) + column;
  }
  typename S::Vec bits(std::int64_t key) const {
    if constexpr (kWhole) return S::load_bits(row(key));
    return S::load_bits(row(key), rest);
  }
};

template <class S, class Product>
struct PackedProduct {
  using Vec = typename S::Vec;
  using Lines = LineQueue<S>;
  static constexpr int kPanel = 2 * S::kWidth;

  // scores[r, key] = the product of row r of q and the key, for R rows and the keys of one panel.
  // `q` lies in blocks: [entries / kWidth][R][kWidth].
  template <int R, int kKeys>
  static void score(const float* q, const float* panel, std::int64_t entries, float* scores,
                    Lines& lines) {
    run<R, S::kWidth, false>(q, KeyColumns<S>{panel}, 0, entries, scores, kKeys, lines);
  }

  // values[r] += the sum over entries [begin, end) of weights[r, entry] * the entry's values.
  template <int R, int kKeys, class T>
  static void add_values(const float* weights, TileRows rows, int begin, int end,
                         std::int64_t v_head_dim, float* values, std::int64_t values_stride,
                         Lines& lines) {
    constexpr int kEntries = kKeys / Product::kElements;
    std::int64_t d = 0;
    for (; d + kPanel <= v_head_dim; d += kPanel) {
      run<R, kEntries, true>(weights, ValueColumns<S, T, Product, true>{rows, d, kPanel}, begin,
                             end, values + d, values_stride, lines);
    }
    if (const int rest = static_cast<int>(v_head_dim - d); rest > 0) {
      run<R, kEntries, true>(weights, ValueColumns<S, T, Product, false>{rows, d, rest}, begin, end,
                             values + d, values_stride, lines);
    }
  }

 private:
  // c[r, 0..kPanel) (+)= the sum over i in [begin, end) of a[r, i] * columns of i, r < R. `a` lies
  // in blocks: [i / kBlock][R][kBlock].
  template <int R, int kBlock, bool kAdd, class Columns>
  static void run(const float* a, const Columns& columns, std::int64_t begin, std::int64_t end,
                  float* c, std::int64_t c_stride, Lines& queue) {
    Lines lines = queue;  // in registers
    Vec sums[R][2];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      sums[r][0] = kAdd ? S::load(c + r * c_stride) : S::zero();
      sums[r][1] = kAdd ? S::load(c + r * c_stride + S::kWidth) : S::zero();
    }
    for (std::int64_t block = begin / kBlock; block * kBlock < end; ++block) {
      const std::int64_t first = block * kBlock;
      const float* const factors = a + first * R - first;
      const std::int64_t stop = end < first + kBlock ? end : first + kBlock;
      for (std::int64_t i = begin > first ? begin : first; i < stop; ++i) {
        const auto b = columns.load(i);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          const Vec factor = S::set1(factors[r * kBlock + i]);
          sums[r][0] = Product::add(sums[r][0], factor, b.lo);
          sums[r][1] = Product::add(sums[r][1], factor, b.hi);
        }
        lines.advance(R);
      }
    }
    queue = lines;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      S::store(c + r * c_stride, sums[r][0]);
      S::store(c + r * c_stride + S::kWidth, sums[r][1]);
    }
  }
};

}  // namespace quire
