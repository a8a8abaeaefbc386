// Caches of int8: a row is whole numbers of -127 to 127 times a scale, which takes the largest of
// them to 127 unless the caller gives one (row_scale.h).
#pragma once

#include "quire/format/cache_format.h"

namespace quire {

inline constexpr CacheFormat kInt8Format = {
    .dtype = DType::int8, .scales = ScaleKind::rows, .safetensors_name = "I8"};

}  // namespace quire
