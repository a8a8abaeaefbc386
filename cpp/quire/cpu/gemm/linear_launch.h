// Matrix products with a packed weight, from arguments to kernels on threads.
#pragma once

#include <string_view>

#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/ops/linear/linear.h"

namespace quire {

// With which kernels, and on how many threads; results are the same bits whatever the second is. A
// value that is made once, where the environment may be read, as Execution is.
struct GemmExecution {
  const GemmKernels* kernels;
  int num_threads;  // >= 1
};

// The fastest kernels that this processor has, with AMX where it has that, or those of the
// instruction set that QUIRE_CPU names. `num_threads`: 0 stands for
// default_num_threads(). Throws ValueError where either finds something wrong in the environment,
// and under the name of `function` for num_threads < 0.
GemmExecution default_gemm_execution(int num_threads = 0, std::string_view function = "linear");

// Computes out. Throws ValueError or TypeError, under the name of `function`, before anything is
// written.
void linear(const LinearArgs& args, const GemmExecution& how, std::string_view function = "linear");

}  // namespace quire
