// How an operation runs: with which kernels, and on how many threads.
//
// It is a value that is made once, where the environment may be read, and handed along: another
// thread may be changing the environment while an operation runs. What it points to lives on.
#pragma once

#include <string_view>

#include "quire/cpu/select_kernels.h"

namespace quire {

struct Execution {
  const SelectedKernels* kernels;
  int num_threads;  // >= 1; results are the same bits whatever it is
};

// selected_kernels() and, where `num_threads` is 0, default_num_threads() threads. Throws
// ValueError where either finds something wrong in the environment, and under the name of
// `function` for num_threads < 0.
Execution default_execution(int num_threads = 0, std::string_view function = "Execution");

}  // namespace quire
