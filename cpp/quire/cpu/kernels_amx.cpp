#include "quire/cpu/attention/tiles/tile_path.h"
#include "quire/cpu/kernel_list.h"
#include "quire/cpu/simd/amx.h"

namespace quire {

// Tiles have one path of attention and one of matrix products; the rest is as AVX-512 does it.
extern constexpr KernelSet kAmxKernels = {
    "amx",     false,  {{}, {}, {}, {}, TilePath<Amx>::kernels("amx"), {}, {}}, {}, {},
    &kAmxGemm, nullptr};

}  // namespace quire
