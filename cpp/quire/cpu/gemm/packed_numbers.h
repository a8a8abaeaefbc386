// The numbers of a packed weight as vectors: of kWidth neighbouring columns an even and an odd
// number of K.
#pragma once

#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/ops/linear/packed_layout.h"

namespace quire {

// Of storage type T: `half` is a half of a block, `pair` counts pairs of K in it.
template <class S, class T>
struct PackedNumbers {
  static constexpr std::int64_t kHalfBytes = kHalfColumns * kBlockDepth * sizeof(T);
  static constexpr bool kHasGroups = false;

  static typename S::Pair pair(const std::byte* half, int pair, int column) {
    const T* const even = reinterpret_cast<const T*>(half) + 2 * pair * kHalfColumns + column;
    return {S::load(even), S::load(even + kHalfColumns)};
  }
};

template <class S>
struct PackedNumbers<S, BFloat16> {
  static constexpr std::int64_t kHalfBytes = kHalfColumns * kBlockDepth * sizeof(BFloat16);
  static constexpr bool kHasGroups = false;

  static typename S::Pair pair(const std::byte* half, int pair, int column) {
    return S::widen(
        S::load_bits(reinterpret_cast<const BFloat16*>(half) + 2 * (pair * kHalfColumns + column)));
  }
};

// The same numbers where scales and offsets belong to groups.
struct Int8InGroups {};

template <class S>
struct PackedNumbers<S, Int8InGroups> : PackedNumbers<S, Int8> {
  static constexpr bool kHasGroups = true;
};

// Four bits: numbers 0 to 15, whose scales and offsets belong to groups.
struct Int4Numbers {};

template <class S>
struct PackedNumbers<S, Int4Numbers> {
  static constexpr std::int64_t kHalfBytes = kHalfColumns * kBlockDepth / 2;
  static constexpr bool kHasGroups = true;

  static typename S::Pair pair(const std::byte* half, int pair, int column) {
    const std::byte* const words = half + (pair / 4 * kHalfColumns + column) * 4;
    return {S::load_nibbles(words, pair % 4 * 4), S::load_nibbles(words, pair % 4 * 4 + 16)};
  }
};

}  // namespace quire
