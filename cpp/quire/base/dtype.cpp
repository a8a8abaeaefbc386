#include "quire/base/dtype.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "quire/base/check.h"

namespace quire {

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::int8:
      return "int8";
    case DType::float8_e4m3fn:
      return "float8_e4m3fn";
    case DType::float8_e5m2:
      return "float8_e5m2";
    case DType::int4:
      return "int4";
    case DType::float32:
      break;
  }
  return "float32";
}

DType dtype_from_name(std::string_view name, std::string_view place) {
  for (const DType dtype : kDTypes) {
    if (name == name_of(dtype)) return dtype;
  }
  for (const DType dtype : kQuantisedDTypes) {
    if (name == name_of(dtype)) return dtype;
  }
  if (name == name_of(DType::int4)) return DType::int4;
  raise<TypeError>(
      place, "got ", name,
      ", expected float32, float16, bfloat16, int8, float8_e4m3fn, float8_e5m2 or int4");
}

float to_float(Float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const std::uint32_t rebiased = exponent == 31 ? 255u : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (rebiased << 23) | (mantissa << 13));
}

template <>
Float16 from_float<Float16>(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN: keep the top of its payload, made quiet
    return {static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu))};
  }
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // >= 65520
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    const std::uint32_t mantissa = std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u;
    return {static_cast<std::uint16_t>(sign | mantissa)};
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<std::uint16_t>(sign | ((rounded - ((127u - 15u) << 23)) >> 13))};
}

template <>
BFloat16 from_float<BFloat16>(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {  // NaN, made quiet
    return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  }
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

float to_float(Float8E4M3 value) {
  const int exponent = (value.bits >> 3) & 0xf;
  const int mantissa = value.bits & 0x7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return value.bits & 0x80 ? -magnitude : magnitude;
}

template <>
Int8 from_float<Int8>(float value) {
  if (std::isnan(value)) return {};
  constexpr float kLargest = largest_of(DType::int8);
  return {static_cast<std::int8_t>(std::nearbyint(std::clamp(value, -kLargest, kLargest)))};
}

namespace {

template <class F>
F rounded_to(float value, DType dtype) {
  using Rounding = Float8Rounding<F>;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint8_t>((bits >> 24) & 0x80u);
  if (std::isnan(value)) return {static_cast<std::uint8_t>(sign | 0x7fu)};
  const float magnitude = std::min(std::fabs(value), largest_of(dtype));
  const std::uint32_t m = std::bit_cast<std::uint32_t>(magnitude);
  if (m < Rounding::kSmallestNormal) {
    const float shifted = magnitude + Rounding::kShift;
    const std::uint32_t count =
        std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(Rounding::kShift);
    return {static_cast<std::uint8_t>(sign | count)};
  }
  const std::uint32_t rounded = m + Rounding::kHalf + ((m >> Rounding::kDropped) & 1u);
  return {static_cast<std::uint8_t>(sign | ((rounded >> Rounding::kDropped) - Rounding::kRebias))};
}

}  // namespace

template <>
Float8E4M3 from_float<Float8E4M3>(float value) {
  return rounded_to<Float8E4M3>(value, DType::float8_e4m3fn);
}

template <>
Float8E5M2 from_float<Float8E5M2>(float value) {
  return rounded_to<Float8E5M2>(value, DType::float8_e5m2);
}

}  // namespace quire
