#include "quire/cpu/instruction_set.h"
#include "quire/cpu/kernel_list.h"
#include "quire/cpu/simd/avx512.h"

namespace quire {

extern constexpr KernelSet kAvx512Kernels =
    InstructionSet<Avx512>::kernels("avx512", &kAvx512Gemm, &kAvx512Operators);

}  // namespace quire
