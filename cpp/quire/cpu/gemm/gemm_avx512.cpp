#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/cpu/gemm/lane_gemm.h"
#include "quire/cpu/simd/avx512.h"

namespace quire {

extern constexpr GemmKernels kAvx512Gemm = {"avx512", LaneGemm<Avx512>::path(), nullptr};

}  // namespace quire
