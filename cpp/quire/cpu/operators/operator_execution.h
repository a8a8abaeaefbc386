// How an operator runs.
#pragma once

#include <string_view>

#include "quire/cpu/operators/operator_kernels.h"

namespace quire {

// With which kernels, and on how many threads; results are the same bits whatever the second is. A
// value that is made once, where the environment may be read, as Execution is.
struct OperatorExecution {
  const OperatorKernels* kernels;
  int num_threads;  // >= 1
};

// The fastest kernels that this processor has, or those of the instruction set that QUIRE_CPU names
// (AVX512-BF16 and AMX have nothing more to offer here, and compute as AVX-512). `num_threads`: 0
// stands for default_num_threads(). Throws ValueError where either finds something wrong in the
// environment, and under the name of `function` for num_threads < 0.
OperatorExecution default_operator_execution(int num_threads, std::string_view function);

}  // namespace quire
