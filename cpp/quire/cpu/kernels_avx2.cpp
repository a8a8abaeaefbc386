#include "quire/cpu/instruction_set.h"
#include "quire/cpu/kernel_list.h"
#include "quire/cpu/simd/avx2.h"

namespace quire {

extern constexpr KernelSet kAvx2Kernels =
    InstructionSet<Avx2>::kernels("avx2", &kAvx2Gemm, &kAvx2Operators);

}  // namespace quire
