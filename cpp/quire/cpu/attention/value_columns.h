// The entries that products are made of, and values read as such where they lie.
//
// An entry is a float. Where products are of bfloat16 pairs it is two neighbouring elements or
// keys, and there are half as many.
#pragma once

#include <cstdint>

#include "quire/cpu/attention/key_tile.h"

namespace quire {

// How entries are multiplied, and how many elements of the axis summed over one holds.
template <class S>
struct FloatProduct {
  static constexpr int kElements = 1;
  static typename S::Vec add(typename S::Vec sum, typename S::Vec a, typename S::Vec b) {
    return S::fma(a, b, sum);
  }
};
template <class S>
struct BFloat16PairProduct {
  static constexpr int kElements = 2;
  static typename S::Vec add(typename S::Vec sum, typename S::Vec a, typename S::Vec b) {
    return S::dot(sum, a, b);
  }
};

// Values where they lie: 2 * kWidth elements of the head from `column` on, or the `rest` of them,
// for entry i of the keys. An entry is a key or, with pairs, two.
template <class S, class T, class Product, bool kWhole>
struct ValueColumns {
  TileRows rows;
  std::int64_t column;
  int rest;

  // Where the entry's keys have their columns: looked up once for all that is loaded from them.
  struct Entry {
    const T* first;
    const T* second;  // of pairs
  };
  Entry entry(std::int64_t i, int = 0) const {
    if constexpr (Product::kElements == 2) return {row(2 * i), row(2 * i + 1)};
    return {row(i), nullptr};
  }

  // The columns `offset` after the first of an entry.
  void load(const Entry& entry, std::int64_t offset, typename S::Vec* to) const {
    const auto pair = load_pair(entry.first + offset, entry.second + offset);
    to[0] = pair.lo;
    to[1] = pair.hi;
  }

 private:
  typename S::Pair load_pair(const T* first, const T* second) const {
    if constexpr (Product::kElements == 2) {
      if constexpr (kWhole) return S::pair_up(first, second);
      return S::pair_up(first, second, rest);
    } else {
      if constexpr (kWhole) return S::load_pair(first);
      return S::load_pair(first, rest);
    }
  }
  const T* row(std::int64_t key) const {
    return reinterpret_cast<const T*>(rows.rows[key] + rows.offset) + column;
  }
};

// All columns of a tile's values.
template <class S, class T, class Product>
struct CacheValues {
  TileRows rows;

  template <bool kWhole>
  ValueColumns<S, T, Product, kWhole> columns(std::int64_t d, int rest) const {
    return {rows, d, rest};
  }
};

// Entries of a packed panel (packed_tile.h), which has one chunk of columns.
template <class S>
struct Panel {
  const float* panel;

  template <bool>
  Panel columns(std::int64_t, int) const {
    return *this;
  }
  const float* entry(std::int64_t i, int) const { return panel + i * 2 * S::kWidth; }
  void load(const float* entry, int, typename S::Vec* to) const {
    to[0] = S::load(entry);
    to[1] = S::load(entry + S::kWidth);
  }
};

}  // namespace quire
