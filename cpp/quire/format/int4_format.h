// Caches of int4: two numbers in a byte, on grids of sixteen points that the channels of a block's
// keys share, and the elements of a value (int4_grid.h). So a block is sealed when all of its rows
// are known, and at least one is open until then. It is two unless said, as the last tokens are
// where attention looks (docs/decisions/0017-four-bits-and-open-blocks.md).
#pragma once

#include "quire/format/cache_format.h"
#include "quire/format/int4_grid.h"

namespace quire {

inline constexpr CacheFormat kInt4Format = {
    .dtype = DType::int4,
    .scales = ScaleKind::grids,
    .largest = kLargestOnGrid,
    .open_blocks = 2,
    .least_open_blocks = 1,
    .safetensors_name = "U8"};  // there are no halves of bytes

}  // namespace quire
