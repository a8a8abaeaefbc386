#include "quire/format/cache_format.h"

#include "quire/format/float8_e4m3fn_format.h"
#include "quire/format/float8_e5m2_format.h"
#include "quire/format/float_formats.h"
#include "quire/format/int4_format.h"
#include "quire/format/int8_format.h"

namespace quire {

const CacheFormat& format_of(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return kFloat16Format;
    case DType::bfloat16:
      return kBFloat16Format;
    case DType::int8:
      return kInt8Format;
    case DType::float8_e4m3fn:
      return kFloat8E4M3Format;
    case DType::float8_e5m2:
      return kFloat8E5M2Format;
    case DType::int4:
      return kInt4Format;
    case DType::float32:
      break;
  }
  return kFloat32Format;
}

}  // namespace quire
