// The entries that products are made of, and values read as such where they lie.
//
// An entry is a float. Where products are of bfloat16 pairs it is two neighbouring elements or
// keys, and there are half as many.
#pragma once

#include <cstdint>
#include <type_traits>

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
  Entry entry(std::int64_t i) const {
    if constexpr (Product::kElements == 2) return {row(2 * i), row(2 * i + 1)};
    return {row(i), nullptr};
  }

  // The columns `offset` after the first of an entry.
  typename S::Pair load(const Entry& entry, std::int64_t offset) const {
    const T* const first = entry.first + offset;
    const T* const second = entry.second + offset;
    if constexpr (Product::kElements == 2 && std::is_same_v<T, Float8E4M3>) {
      if constexpr (kWhole) return S::pair_up(first, second);
      return S::pair_up(first, second, rest);
    } else if constexpr (Product::kElements == 2 && std::is_same_v<T, Int8>) {
      const auto a = kWhole ? S::load_pair(first) : S::load_pair(first, rest);
      const auto b = kWhole ? S::load_pair(second) : S::load_pair(second, rest);
      return {S::pair_up_floats(a.lo, b.lo), S::pair_up_floats(a.hi, b.hi)};
    } else if constexpr (Product::kElements == 2) {
      return S::pair_up(bits(first), bits(second));
    } else {
      if constexpr (kWhole) return S::load_pair(first);
      return S::load_pair(first, rest);
    }
  }
  typename S::Pair load(std::int64_t i) const { return load(entry(i), 0); }

 private:
  const T* row(std::int64_t key) const {
    return reinterpret_cast<const T*>(rows.rows[key] + rows.offset) + column;
  }
  typename S::Vec bits(const T* p) const {
    if constexpr (kWhole) return S::load_bits(p);
    return S::load_bits(p, rest);
  }
};

}  // namespace quire
