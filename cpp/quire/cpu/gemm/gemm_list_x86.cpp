#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "quire/cpu/gemm/gemm_list.h"
#include "quire/cpu/x86_features.h"

namespace quire {
namespace {

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
  return has_avx512bf16() && has_permission();
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
