#include "quire/cpu/gemm/gemm_list.h"

namespace quire {
namespace {

// Advanced SIMD is part of every Armv8-A processor.
constexpr GemmChoice kList[] = {
    {"neon", &kNeonGemm, [] { return true; }},
    {"scalar", &kScalarGemm, [] { return true; }},
};

}  // namespace

std::span<const GemmChoice> gemm_list() { return kList; }

}  // namespace quire
