#include "quire/cpu/gemm/gemm_list.h"

namespace quire {
namespace {

constexpr GemmChoice kList[] = {{"scalar", &kScalarGemm, [] { return true; }}};

}  // namespace

std::span<const GemmChoice> gemm_list() { return kList; }

}  // namespace quire
