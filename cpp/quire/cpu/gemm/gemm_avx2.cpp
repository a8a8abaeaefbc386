#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/cpu/gemm/lane_gemm.h"
#include "quire/cpu/simd/avx2.h"

namespace quire {

extern constexpr GemmKernels kAvx2Gemm = {"avx2", LaneGemm<Avx2>::path(), nullptr};

}  // namespace quire
