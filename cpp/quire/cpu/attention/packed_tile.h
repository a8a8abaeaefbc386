// A panel of a tile's keys or values, copied into the order in which many query rows multiply it:
//
//   keys     [element of the head][kPanel keys]       rows turned into columns
//   values   [key][kPanel elements of the head]       in the order of lanes of their dtype
//
// An entry of the first axis is a float. Where products are of bfloat16 pairs it is two
// neighbouring elements or keys, and there are half as many.
#pragma once

#include <cstdint>
#include <type_traits>

#include "quire/cpu/attention/line_queue.h"
#include "quire/cpu/attention/value_tile.h"

namespace quire {

template <class S>
struct PackedKeys {
  using Vec = typename S::Vec;
  static constexpr int kPanel = 2 * S::kWidth;

  // Work, as kValueWork, of turning kWidth keys by kPanel elements.
  static constexpr int kTurnWork = 6 * kValueWork * S::kWidth;

  // One panel: kPanel keys from `key` on, all elements up to the padded head size.
  template <class T, class Product>
  static void pack(TileRows keys, int key, std::int64_t head_dim, float* panel,
                   LineQueue<S>& lines) {
    for (std::int64_t d = 0; d < head_dim; d += kPanel) {
      const int n = static_cast<int>(head_dim - d < kPanel ? head_dim - d : kPanel);
      for (int half = 0; half < 2; ++half) {
        turn<T, Product>(keys, key + half * S::kWidth, d, n,
                         panel + d / Product::kElements * kPanel + half * S::kWidth);
        lines.advance(kTurnWork);
      }
    }
  }

 private:
  template <class T>
  static const T* row(TileRows keys, int key) {
    return reinterpret_cast<const T*>(keys.rows[key] + keys.offset);
  }

  // kWidth keys by kPanel elements: n of them, then zeros.
  template <class T, class Product>
  static void turn(TileRows keys, int key, std::int64_t d, int n, float* to) {
    const auto at = [&](int i) { return row<T>(keys, key + i) + d; };
    if constexpr (Product::kElements == 2) {
      turn_vectors(
          [&](int i) { return n == kPanel ? S::load_narrow(at(i)) : S::load_narrow(at(i), n); },
          [&](int i, Vec pairs) { S::store(to + i * kPanel, pairs); });
    } else if constexpr (std::is_same_v<T, BFloat16>) {  // as pairs, which is half the work
      turn_vectors(
          [&](int i) { return n == kPanel ? S::load_bits(at(i)) : S::load_bits(at(i), n); },
          [&](int i, Vec pairs) {
            const auto pair = S::widen(pairs);
            S::store(to + 2 * i * kPanel, pair.lo);
            S::store(to + (2 * i + 1) * kPanel, pair.hi);
          });
    } else {
      Vec lo[S::kWidth], hi[S::kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < S::kWidth; ++i) {
        const auto pair =
            S::template to_natural<T>(n == kPanel ? S::load_pair(at(i)) : S::load_pair(at(i), n));
        lo[i] = pair.lo;
        hi[i] = pair.hi;
      }
      S::transpose(lo);
      S::transpose(hi);
#pragma GCC unroll 16
      for (int i = 0; i < S::kWidth; ++i) {
        S::store(to + i * kPanel, lo[i]);
        S::store(to + (S::kWidth + i) * kPanel, hi[i]);
      }
    }
  }

  template <class Load, class Store>
  static void turn_vectors(Load load, Store store) {
    Vec v[S::kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < S::kWidth; ++i) v[i] = load(i);
    S::transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < S::kWidth; ++i) store(i, v[i]);
  }
};

template <class S>
struct PackedValues {
  static constexpr int kPanel = 2 * S::kWidth;

  // The entries [0, entries) of kPanel elements of the head from `column` on.
  template <class T, class Product>
  static void pack(TileRows values, int entries, std::int64_t column, std::int64_t v_head_dim,
                   float* panel, LineQueue<S>& lines) {
    if (const std::int64_t rest = v_head_dim - column; rest >= kPanel) {
      copy(ValueColumns<S, T, Product, true>{values, column, kPanel}, entries, panel);
    } else {
      copy(ValueColumns<S, T, Product, false>{values, column, static_cast<int>(rest)}, entries,
           panel);
    }
    lines.advance(entries * kValueWork);
  }

 private:
  template <class Columns>
  static void copy(const Columns& columns, int entries, float* panel) {
    for (int i = 0; i < entries; ++i, panel += kPanel) {
      typename S::Vec v[2];
      columns.load(columns.entry(i), 0, v);
      S::store(panel, v[0]);
      S::store(panel + S::kWidth, v[1]);
    }
  }
};

}  // namespace quire
