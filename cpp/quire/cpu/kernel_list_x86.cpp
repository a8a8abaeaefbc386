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

constexpr KernelSource kList[] = {
    {&kAvx512Bf16Kernels, has_avx512bf16},
    {&kAvx512Kernels, has_avx512},
    {&kAvx2Kernels, has_avx2},
    {&kScalarKernels, [] { return true; }},
};

}  // namespace

std::span<const KernelSource> kernel_list() { return kList; }

// AMD's do: twice the arithmetic. Those of Intel that have AMX as well do it a quarter as often
// (measured: 121 against 243 GFLOP/s a core of an Emerald Rapids).
bool has_fast_pairs() { return __builtin_cpu_is("amd"); }

}  // namespace quire
