#include "quire/cpu/kernel_list.h"

namespace quire {
namespace {

// Each asks for every instruction that its kernels_<isa>.cpp is compiled with.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}

// AMD's processors multiply bfloat16 pairs as often per cycle as floats: twice the arithmetic.
// Those of Intel that have AMX as well do it a quarter as often (measured: 121 against 243 GFLOP/s
// a core of an Emerald Rapids), and AVX-512 without it is faster. But whole numbers are multiplied
// in one instruction, and float8s widened by two tables: of quantised caches it is the faster one.
bool pays_bfloat16(bool quantised) { return quantised || __builtin_cpu_is("amd"); }

constexpr KernelChoice kList[] = {
    {&kAvx512Bf16Kernels, has_avx512bf16, pays_bfloat16},
    {&kAvx512Kernels, has_avx512},
    {&kAvx2Kernels, has_avx2},
    {&kScalarKernels, [] { return true; }},
};

}  // namespace

std::span<const KernelChoice> kernel_list() { return kList; }

}  // namespace quire
