// Element types of keys, values, queries and outputs, and their storage formats.
//
// Queries, outputs and new keys and values are plain floats. A cache may be quantised as well: an
// element is then a small number that stands for itself times a scale (quire/attention).
#pragma once

#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "quire/task/dtype_name.h"

namespace quire {

// The plain floats, and the quantised whose elements are numbers by themselves.
inline constexpr DType kDTypes[] = {DType::float32, DType::float16, DType::bfloat16};
inline constexpr DType kQuantisedDTypes[] = {DType::int8, DType::float8_e4m3fn, DType::float8_e5m2};

constexpr bool is_quantised(DType dtype) {
  return dtype != DType::float32 && dtype != DType::float16 && dtype != DType::bfloat16;
}

// Numbers in one element of an array: int4 has two in a byte (int4_grid.h).
constexpr int numbers_of(DType dtype) { return dtype == DType::int4 ? 2 : 1; }

// Bytes of one element.
constexpr std::size_t size_of(DType dtype) {
  return is_quantised(dtype) ? 1 : dtype == DType::float32 ? 4 : 2;
}

// The largest magnitude that a quantised dtype is given, which a scale takes the largest of a row
// to. int8 is kept symmetric: -128 is read, and never written.
constexpr float largest_of(DType quantised) {
  if (quantised == DType::int8) return 127.0f;
  return quantised == DType::float8_e5m2 ? 57344.0f : 448.0f;
}

// "float32", "float16", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2", "int4".
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

// A whole number, -128 to 127.
struct Int8 {
  std::int8_t bits = 0;
};

// A sign, 4 bits of exponent (bias 7) and 3 of mantissa; no infinity, and NaN where all of
// exponent and mantissa are ones. Source: Micikevicius et al., "FP8 Formats for Deep Learning"
// (arXiv:2209.05433), where it is E4M3.
struct Float8E4M3 {
  static constexpr int kMantissaBits = 3, kBias = 7;
  std::uint8_t bits = 0;
};

// A sign, 5 bits of exponent (bias 15) and 2 of mantissa: the upper byte of a binary16, infinities
// and NaNs too. E5M2 there.
struct Float8E5M2 {
  static constexpr int kMantissaBits = 2, kBias = 15;
  std::uint8_t bits = 0;
};

// How the bits of a float become those of a float of 8 bits, F. A number that is normal there loses
// its last kDropped bits, after kHalf and the last bit that stays are added, so that it is rounded
// to nearest even, and then its exponent counts from elsewhere. Of smaller ones kShift is added: at
// that number floats are as far apart as subnormal numbers of F are.
template <class F>
struct Float8Rounding {
  static constexpr int kDropped = 23 - F::kMantissaBits;
  static constexpr std::uint32_t kHalf = (1u << (kDropped - 1)) - 1;
  static constexpr std::uint32_t kRebias = (127u - F::kBias) << F::kMantissaBits;
  static constexpr std::uint32_t kSmallestNormal = (128u - F::kBias) << 23;
  static constexpr float kShift =
      std::bit_cast<float>(kSmallestNormal + (static_cast<std::uint32_t>(kDropped) << 23));
};

// Exact.
float to_float(Float16 value);
inline float to_float(Int8 value) { return static_cast<float>(value.bits); }
float to_float(Float8E4M3 value);
inline float to_float(Float8E5M2 value) {
  return to_float(Float16{static_cast<std::uint16_t>(value.bits << 8)});
}
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

// The same, but what is too large becomes the largest (largest_of) with its sign. A NaN is one in
// float8 and 0 in int8, which has none.
template <>
Int8 from_float<Int8>(float value);
template <>
Float8E4M3 from_float<Float8E4M3>(float value);
template <>
Float8E5M2 from_float<Float8E5M2>(float value);

// The dtype whose storage type T is.
template <class T>
constexpr DType dtype_of() = delete;
template <>
constexpr DType dtype_of<float>() {
  return DType::float32;
}
template <>
constexpr DType dtype_of<Float16>() {
  return DType::float16;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::bfloat16;
}

// Calls visitor(T{}) with the storage type of `dtype`, of plain floats.
template <class Visitor>
decltype(auto) visit_dtype(DType dtype, Visitor&& visitor) {
  if (dtype == DType::float16) return visitor(Float16{});
  if (dtype == DType::bfloat16) return visitor(BFloat16{});
  assert(dtype == DType::float32);
  return visitor(float{});
}

// The same with one of kQuantisedDTypes.
template <class Visitor>
decltype(auto) visit_quantised_dtype(DType dtype, Visitor&& visitor) {
  if (dtype == DType::int8) return visitor(Int8{});
  if (dtype == DType::float8_e5m2) return visitor(Float8E5M2{});
  assert(dtype == DType::float8_e4m3fn);
  return visitor(Float8E4M3{});
}

// The same with any dtype of a cache whose elements are numbers.
template <class Visitor>
decltype(auto) visit_cache_dtype(DType dtype, Visitor&& visitor) {
  if (is_quantised(dtype)) return visit_quantised_dtype(dtype, visitor);
  return visit_dtype(dtype, visitor);
}

}  // namespace quire
