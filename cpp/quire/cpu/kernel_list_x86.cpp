#include "quire/cpu/kernel_list.h"
#include "quire/cpu/x86_amx.h"
#include "quire/cpu/x86_features.h"

namespace quire {
namespace {

constexpr KernelSource kList[] = {
    {&kAmxKernels, has_amx, why_no_amx},    {&kAvx512Bf16Kernels, has_avx512bf16},
    {&kAvx512Kernels, has_avx512},          {&kAvx2Kernels, has_avx2},
    {&kScalarKernels, [] { return true; }},
};

}  // namespace

std::span<const KernelSource> kernel_list() { return kList; }

// AMD's do: twice the arithmetic. Those of Intel that have AMX as well do it a quarter as often
// (measured: 121 against 243 GFLOP/s a core of an Emerald Rapids).
bool has_fast_pairs() { return __builtin_cpu_is("amd"); }

}  // namespace quire
