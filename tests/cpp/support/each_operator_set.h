// The kernels of operators that this machine has, for tests that run on each of them.
#pragma once

#include <vector>

#include "quire/cpu/kernel_list.h"

namespace quire::testing {

inline std::vector<const OperatorKernels*> operator_kernels() {
  std::vector<const OperatorKernels*> all;
  for (const KernelSource& source : kernel_list()) {
    const OperatorKernels* const kernels = source.kernels->operators;
    if (kernels != nullptr && source.runs_here()) all.push_back(kernels);
  }
  return all;
}

}  // namespace quire::testing
