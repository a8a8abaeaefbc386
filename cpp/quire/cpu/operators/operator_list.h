// The kernels of operators that this build holds: operator_list_x86.cpp, _arm.cpp or _generic.cpp,
// as CMake chooses.
#pragma once

#include <span>

#include "quire/cpu/operators/operator_kernels.h"

namespace quire {

extern const OperatorKernels kScalarOperators;
extern const OperatorKernels kAvx2Operators;
extern const OperatorKernels kAvx512Operators;
extern const OperatorKernels kNeonOperators;

struct OperatorChoice {
  const OperatorKernels* kernels;
  bool (*runs_here)();
};

// The first that runs is chosen where no instruction set is named; the last runs anywhere.
std::span<const OperatorChoice> operator_list();

}  // namespace quire
