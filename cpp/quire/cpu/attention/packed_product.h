// The inner loop of attention with many query rows: R rows by two vectors of columns, kept in
// registers.
#pragma once

#include <cstdint>

#include "quire/cpu/attention/packed_tile.h"

namespace quire {

// Entries of a packed panel.
template <class S>
struct PanelColumns {
  const float* panel;

  typename S::Pair load(std::int64_t i) const {
    const float* const p = panel + i * 2 * S::kWidth;
    return {S::load(p), S::load(p + S::kWidth)};
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
    run<R, S::kWidth, false>(q, PanelColumns<S>{panel}, 0, entries, scores, kKeys, lines);
  }

  // values[r, 0..kPanel) += the sum over entries [begin, end) of weights[r, entry] * the panel's
  // entry.
  template <int R, int kKeys>
  static void add_panel(const float* weights, const float* panel, int begin, int end, float* values,
                        std::int64_t values_stride, Lines& lines) {
    run<R, kKeys / Product::kElements, true>(weights, PanelColumns<S>{panel}, begin, end, values,
                                             values_stride, lines);
  }

  // The same with all values where they lie.
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
