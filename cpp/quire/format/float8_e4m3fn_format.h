// Caches of float8_e4m3fn: a row is numbers of up to 448 in magnitude times a scale, which takes
// the largest of them there unless the caller gives one (row_scale.h).
#pragma once

#include "quire/format/cache_format.h"

namespace quire {

inline constexpr CacheFormat kFloat8E4M3Format = {
    .dtype = DType::float8_e4m3fn, .scales = ScaleKind::rows, .safetensors_name = "F8_E4M3"};

}  // namespace quire
