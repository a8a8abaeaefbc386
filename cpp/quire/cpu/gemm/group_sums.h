// The sum of x over a group of a weight, which the group's offset is multiplied by.
#pragma once

#include <cstdint>

namespace quire {

// The largest group.
inline constexpr std::int64_t kMostGroupDepth = 128;

template <class S>
struct GroupSums {
  // `depth`: a multiple of 16. The order is the same for all instruction sets: numbers 16 apart,
  // then halves of these sums crosswise.
  static float sum(const float* numbers, std::int64_t depth) {
    constexpr int kSums = 16;
    float parts[kSums] = {};
    for (std::int64_t k = 0; k < depth; k += kSums) {
      for (int i = 0; i < kSums; ++i) parts[i] += numbers[k + i];
    }
    for (int half = kSums / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
    }
    return parts[0];
  }
};

}  // namespace quire
