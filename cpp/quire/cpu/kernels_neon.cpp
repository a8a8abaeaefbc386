#include "quire/cpu/instruction_set.h"
#include "quire/cpu/kernel_list.h"
#include "quire/cpu/simd/neon.h"

namespace quire {

extern constexpr KernelSet kNeonKernels =
    InstructionSet<Neon>::kernels("neon", &kNeonGemm, &kNeonOperators);

}  // namespace quire
