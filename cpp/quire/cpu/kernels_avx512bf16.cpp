#include "quire/cpu/instruction_set.h"
#include "quire/cpu/kernel_list.h"
#include "quire/cpu/simd/avx512bf16.h"

namespace quire {

extern constexpr KernelSet kAvx512Bf16Kernels =
    InstructionSet<Avx512Bf16>::kernels("avx512bf16", nullptr, nullptr);

}  // namespace quire
