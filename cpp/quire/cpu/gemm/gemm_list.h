// The kernels of matrix products that this build holds: gemm_list_x86.cpp, _arm.cpp or
// _generic.cpp, as CMake chooses.
#pragma once

#include <span>
#include <string_view>

#include "quire/cpu/gemm/gemm_kernels.h"

namespace quire {

extern const GemmKernels kScalarGemm;
extern const GemmKernels kAvx2Gemm;
extern const GemmKernels kAvx512Gemm;
extern const GemmKernels kAmxGemm;
extern const GemmKernels kNeonGemm;

struct GemmChoice {
  std::string_view instruction_set;  // that QUIRE_CPU names
  const GemmKernels* kernels;
  bool (*runs_here)();
};

// The first that runs is chosen; the last runs anywhere.
std::span<const GemmChoice> gemm_list();

}  // namespace quire
