// Element types of keys, values, queries and outputs, and their 16-bit storage formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace quire {

enum class DType : std::uint8_t { float32, float16, bfloat16 };

inline constexpr DType kDTypes[] = {DType::float32, DType::float16, DType::bfloat16};

// Bytes of one element.
constexpr std::size_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// "float32", "float16", "bfloat16".
std::string_view name_of(DType dtype);

// The inverse of name_of; throws TypeError that lists the supported names.
DType dtype_from_name(std::string_view name, std::string_view place);

// IEEE 754 binary16, storage only.
struct Float16 {
  std::uint16_t bits = 0;
};

// The upper half of a binary32, storage only.
struct BFloat16 {
  std::uint16_t bits = 0;
};

// Exact.
float to_float(Float16 value);
inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Rounded to nearest, ties to even; overflow goes to infinity, a NaN stays a (quiet) NaN.
template <class T>
T from_float(float value);
template <>
inline float from_float<float>(float value) {
  return value;
}
template <>
Float16 from_float<Float16>(float value);
template <>
BFloat16 from_float<BFloat16>(float value);

// Calls visitor(T{}) with the storage type of `dtype`: the one switch over element types.
template <class Visitor>
decltype(auto) visit_dtype(DType dtype, Visitor&& visitor) {
  switch (dtype) {
    case DType::float16:
      return visitor(Float16{});
    case DType::bfloat16:
      return visitor(BFloat16{});
    case DType::float32:
      break;
  }
  return visitor(float{});
}

}  // namespace quire
