// The instruction sets that this build holds: kernel_list_x86.cpp, _arm.cpp or _generic.cpp, as
// CMake chooses.
#pragma once

#include <span>

#include "quire/cpu/kernels.h"

namespace quire {

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kNeonKernels;

struct KernelChoice {
  const Kernels* kernels;
  bool (*runs_here)();  // whether this processor and its operating system have the instructions
  // Whether it is worth being chosen unasked, where it runs, for caches that are quantised or not;
  // null: always.
  bool (*pays_here)(bool quantised) = nullptr;
};

// Whether this processor multiplies pairs of bfloat16 as often per cycle as floats.
bool has_fast_pairs();

// The first that runs and pays is chosen; the last runs anywhere.
std::span<const KernelChoice> kernel_list();

}  // namespace quire
