// The entries that products are made of, and values read as such where they lie.
//
// An entry is a float. Where products are of bfloat16 pairs it is two neighbouring elements or
// keys, and there are half as many.
#pragma once

#include <cstdint>
#include <type_traits>

#include "quire/cpu/key_tile.h"

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

  typename S::Pair load(std::int64_t i) const {
    if constexpr (Product::kElements == 2 && std::is_same_v<T, Float8E4M3>) {
      if constexpr (kWhole) return S::pair_up(row(2 * i), row(2 * i + 1));
      return S::pair_up(row(2 * i), row(2 * i + 1), rest);
    } else if constexpr (Product::kElements == 2) {
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

}  // namespace quire
