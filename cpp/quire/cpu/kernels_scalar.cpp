#include "quire/cpu/instruction_set.h"
#include "quire/cpu/kernel_list.h"
#include "quire/cpu/simd/scalar.h"

namespace quire {

extern constexpr KernelSet kScalarKernels =
    InstructionSet<Scalar>::kernels("scalar", &kScalarGemm, &kScalarOperators);

}  // namespace quire
