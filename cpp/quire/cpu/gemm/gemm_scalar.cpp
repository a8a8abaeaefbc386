#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/cpu/gemm/lane_gemm.h"
#include "quire/cpu/simd/scalar.h"

namespace quire {

extern constexpr GemmKernels kScalarGemm = {"scalar", LaneGemm<Scalar>::path(), nullptr};

}  // namespace quire
