// Caches of float8_e5m2: a row is numbers of up to 57344 in magnitude times a scale, which takes
// the largest of them there unless the caller gives one (row_scale.h).
#pragma once

#include "quire/format/cache_format.h"

namespace quire {

inline constexpr CacheFormat kFloat8E5M2Format = {
    .dtype = DType::float8_e5m2, .scales = ScaleKind::rows, .safetensors_name = "F8_E5M2"};

}  // namespace quire
