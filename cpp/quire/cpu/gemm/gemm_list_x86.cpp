#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "quire/cpu/gemm/gemm_list.h"

namespace quire {
namespace {

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// A process has tiles once it has asked Linux for them, as their state makes the frames of signals
// larger: refused where a thread's stack for signals is too small for that. For good, and for all
// of its threads.
bool has_permission() {
  constexpr long kRequestComponent = 0x1023;  // ARCH_REQ_XCOMP_PERM of arch_prctl(2)
  constexpr long kTileData = 18;              // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestComponent, kTileData) == 0;
}

bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBFloat16Tiles = 1u << 22;
  constexpr unsigned kTiles = 1u << 24;
  constexpr unsigned kAll = kBFloat16Tiles | kTiles;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAll) != kAll) return false;
  // has_avx512 and the rest of what simd/avx512bf16.h is compiled with
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
         has_permission();
}

// AVX512-BF16 has a dot product of pairs, whose sums are others than those of tiles: it computes as
// AVX-512 does.
constexpr GemmChoice kList[] = {
    {"", &kAmxGemm, has_amx},
    {"avx512bf16", &kAvx512Gemm, has_avx512},
    {"avx512", &kAvx512Gemm, has_avx512},
    {"avx2", &kAvx2Gemm, has_avx2},
    {"scalar", &kScalarGemm, [] { return true; }},
};

}  // namespace

std::span<const GemmChoice> gemm_list() { return kList; }

}  // namespace quire
