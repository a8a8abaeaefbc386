// Numbers of 8 and of 4 bits as the bfloat16s that tiles multiply. Exact: whole numbers of 8 bits
// have no more bits than a bfloat16.
#pragma once

#include "quire/cpu/gemm/packed_numbers.h"

namespace quire {

template <class S>
struct UnpackBlocks {
  // A block of int8: 32 numbers of K and 32 columns, as two tiles of pairs. Returns what follows.
  static const std::byte* unpack(Int8, const std::byte* block, std::byte* to) {
    using Numbers = PackedNumbers<S, Int8>;
    for (int half = 0; half < 2; ++half, block += Numbers::kHalfBytes) {
      for (int pair = 0; pair < kBlockDepth / 2; ++pair) {
        for (int column = 0; column < kHalfColumns; column += S::kWidth, to += 4 * S::kWidth) {
          const auto numbers = Numbers::pair(block, pair, column);
          S::store(reinterpret_cast<float*>(to), S::pair_up_floats(numbers.lo, numbers.hi));
        }
      }
    }
    return block;
  }

  static const std::byte* unpack(Int8InGroups, const std::byte* block, std::byte* to) {
    return unpack(Int8{}, block, to);
  }

  // The same of int4.
  static const std::byte* unpack(Int4Numbers, const std::byte* block, std::byte* to) {
    constexpr int kWordPairs = 4;
    constexpr int kLineBytes = kHalfColumns * 4;  // the words of 16 columns
    for (int line = 0; line < 2 * kBlockDepth / 2 / kWordPairs; ++line, block += kLineBytes) {
#pragma GCC unroll 4
      for (int pair = 0; pair < kWordPairs; ++pair) {
        for (int column = 0; column < kHalfColumns; column += S::kWidth, to += 4 * S::kWidth) {
          S::store(reinterpret_cast<float*>(to), S::nibble_pairs(block + 4 * column, 4 * pair));
        }
      }
    }
    return block;
  }
};

}  // namespace quire
