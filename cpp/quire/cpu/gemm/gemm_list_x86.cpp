#include "quire/cpu/gemm/gemm_list.h"
#include "quire/cpu/x86_amx.h"
#include "quire/cpu/x86_features.h"

namespace quire {
namespace {

// AVX512-BF16 has a dot product of pairs, whose sums are others than those of tiles: it computes as
// AVX-512 does.
constexpr GemmChoice kList[] = {
    {"amx", &kAmxGemm, has_amx},
    {"avx512bf16", &kAvx512Gemm, has_avx512},
    {"avx512", &kAvx512Gemm, has_avx512},
    {"avx2", &kAvx2Gemm, has_avx2},
    {"scalar", &kScalarGemm, [] { return true; }},
};

}  // namespace

std::span<const GemmChoice> gemm_list() { return kList; }

}  // namespace quire
