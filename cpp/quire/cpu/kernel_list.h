// The instruction sets that this build holds: kernel_list_x86.cpp, _arm.cpp or _generic.cpp, as
// CMake chooses.
#pragma once

#include <span>

#include "quire/cpu/kernel_set.h"

namespace quire {

extern const KernelSet kScalarKernels;
extern const KernelSet kAvx2Kernels;
extern const KernelSet kAvx512Kernels;
extern const KernelSet kAvx512Bf16Kernels;
extern const KernelSet kAmxKernels;
extern const KernelSet kNeonKernels;

struct KernelSource {
  const KernelSet* kernels;
  bool (*runs_here)();  // whether this processor and its operating system have the instructions
  const char* (*why_not)() = nullptr;  // where that may have several reasons: which it is
};

// Whether this processor multiplies pairs of bfloat16 as often per cycle as floats.
bool has_fast_pairs();

// The richest first; the last runs anywhere. Each operator chooses for itself
// (kernel_candidates.h).
std::span<const KernelSource> kernel_list();

}  // namespace quire
