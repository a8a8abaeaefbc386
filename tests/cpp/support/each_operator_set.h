// The kernels of operators that this machine has, for tests that run on each of them, and what they
// run on.
#pragma once

#include <gtest/gtest.h>

#include <random>
#include <utility>
#include <vector>

#include "quire/cpu/kernel_list.h"
#include "quire/cpu/operators/operator_execution.h"
#include "support/attention_problem.h"

namespace quire::testing {

inline std::vector<const OperatorKernels*> operator_kernels() {
  std::vector<const OperatorKernels*> all;
  for (const KernelSource& source : kernel_list()) {
    const OperatorKernels* const kernels = source.kernels->operators;
    if (kernels != nullptr && source.runs_here()) all.push_back(kernels);
  }
  return all;
}

class OnOperatorKernels : public ::testing::TestWithParam<const OperatorKernels*> {
 protected:
  OperatorExecution on(int num_threads) const { return {GetParam(), num_threads}; }
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
