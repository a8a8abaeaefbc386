#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/cpu/gemm/lane_gemm.h"
#include "quire/cpu/simd/neon.h"

namespace quire {

extern constexpr GemmKernels kNeonGemm = {"neon", LaneGemm<Neon>::path(), nullptr};

}  // namespace quire
