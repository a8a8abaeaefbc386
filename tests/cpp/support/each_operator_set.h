// The instruction sets of this machine that have kernels of operators of their own, for tests that
// run on each of them, and what they run on.
#pragma once

#include <gtest/gtest.h>

#include <random>
#include <utility>
#include <vector>

#include "quire/cpu/execution.h"
#include "quire/cpu/kernel_list.h"
#include "support/attention_problem.h"

namespace quire::testing {

inline std::vector<const SelectedKernels*> operator_sets() {
  std::vector<const SelectedKernels*> all;
  for (const KernelSource& source : kernel_list()) {
    if (source.kernels->operators == nullptr || !source.runs_here()) continue;
    all.push_back(&kernels_named(source.kernels->name));
  }
  return all;
}

class OnOperatorSet : public ::testing::TestWithParam<const SelectedKernels*> {
 protected:
  Execution on(int num_threads) const { return {GetParam(), num_threads}; }
};

inline Array normal(DType dtype, std::vector<std::int64_t> shape, std::uint32_t seed,
                    float width = 1) {
  Array array(dtype, std::move(shape));
  std::mt19937 random(seed);
  std::normal_distribution<float> numbers(0, width);
  for (std::int64_t i = 0; i < array.size(); ++i) array.set(i, numbers(random));
  return array;
}

}  // namespace quire::testing
