// Sums of x over the groups of an int4 weight, which its offsets are multiplied by.
#pragma once

#include "quire/cpu/gemm/gemm_kernels.h"

namespace quire {

template <class S>
struct GroupSums {
  // One for each group of a row of task.depth floats. The order is the same for all instruction
  // sets: numbers 16 apart, then halves of these sums crosswise.
  static void run(const GemmTask& task, const float* row, float* sums) {
    constexpr int kSums = 16;
    for (std::int64_t group = 0; group < task.depth / task.group_depth; ++group) {
      float parts[kSums] = {};
      for (std::int64_t k = 0; k < task.group_depth; k += kSums) {
        for (int i = 0; i < kSums; ++i) parts[i] += row[group * task.group_depth + k + i];
      }
      for (int half = kSums / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
      }
      sums[group] = parts[0];
    }
  }
};

}  // namespace quire
