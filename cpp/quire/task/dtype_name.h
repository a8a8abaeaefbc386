// The element types by name alone, for code of any processor: quire/base/dtype.h says what they are
// worth.
#pragma once

#include <cstdint>

namespace quire {

enum class DType : std::uint8_t {
  float32,
  float16,
  bfloat16,
  int8,
  float8_e4m3fn,
  float8_e5m2,
  int4
};

}  // namespace quire
