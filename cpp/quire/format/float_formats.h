// Caches of plain floats: a number is what it says, and one that is infinite when it is rounded is
// refused.
#pragma once

#include "quire/format/cache_format.h"

namespace quire {

inline constexpr CacheFormat kFloat32Format = {.dtype = DType::float32, .safetensors_name = "F32"};
inline constexpr CacheFormat kFloat16Format = {.dtype = DType::float16, .safetensors_name = "F16"};
inline constexpr CacheFormat kBFloat16Format = {.dtype = DType::bfloat16,
                                                .safetensors_name = "BF16"};

}  // namespace quire
