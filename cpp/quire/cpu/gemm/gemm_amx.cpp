#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/cpu/gemm/lane_gemm.h"
#include "quire/cpu/gemm/tile_gemm.h"
#include "quire/cpu/simd/amx.h"

namespace quire {

extern constexpr GemmKernels kAmxGemm = {"amx", LaneGemm<Amx>::path(), &TileGemm<Amx>::kPath};

}  // namespace quire
