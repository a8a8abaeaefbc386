// How an operation runs: with which kernels, and on how many threads.
//
// It is a value that is made once, where the environment may be read, and handed along: another
// thread may be changing the environment while an operation runs.
#pragma once

#include <string_view>

#include "quire/base/dtype.h"
#include "quire/cpu/kernels.h"

namespace quire {

struct Execution {
  const Kernels* plain;      // of caches of float32, float16 and bfloat16
  const Kernels* quantised;  // of the others
  int num_threads;           // >= 1; results are the same bits whatever it is

  const Kernels& kernels_of(DType cache) const { return is_quantised(cache) ? *quantised : *plain; }
};

// The instruction sets of selected_kernels() and, where `num_threads` is 0, default_num_threads()
// threads. Throws ValueError where either finds something wrong in the environment, and under the
// name of `function` for num_threads < 0.
Execution default_execution(int num_threads = 0, std::string_view function = "Execution");

}  // namespace quire
