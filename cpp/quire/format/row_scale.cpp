#include "quire/format/row_scale.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace quire {
namespace {

// from_float of quire/base/dtype.h for numbers up to largest_of, or beyond it by a rounding, in a
// form that a compiler turns into vectors.
//
// At 1.5 * 2^23 floats are 1 apart, and their lowest bits count.
std::uint8_t rounded(float x, Int8) {
  return static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(x + 0x1.8p23f));
}

template <class F>
std::uint8_t rounded(float x, F) {
  using Rounding = Float8Rounding<F>;
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 24) & 0x80u;
  const std::uint32_t m = bits & 0x7fffffffu;
  const std::uint32_t ties = (m >> Rounding::kDropped) & 1u;
  const std::uint32_t normal =
      ((m + Rounding::kHalf + ties) >> Rounding::kDropped) - Rounding::kRebias;
  const float shifted = std::bit_cast<float>(m) + Rounding::kShift;
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(Rounding::kShift);
  const std::uint32_t is_subnormal = 0u - static_cast<std::uint32_t>(m < Rounding::kSmallestNormal);
  return static_cast<std::uint8_t>(sign | (subnormal & is_subnormal) | (normal & ~is_subnormal));
}

constexpr std::uint32_t kMagnitude = 0x7fffffffu;

}  // namespace

// Magnitudes are compared as whole numbers, which order alike, as a largest float would need its
// elements in their order.
float largest_magnitude(const float* row, std::int64_t count, float so_far) {
  std::uint32_t largest = std::bit_cast<std::uint32_t>(so_far);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(row[i]) & kMagnitude;
    largest = largest > magnitude ? largest : magnitude;
  }
  return std::bit_cast<float>(largest);
}

float scale_of_row(float largest, DType dtype) {
  const float most = largest_of(dtype);
  const float scale = std::max(largest / most, std::numeric_limits<float>::min());
  // At the end of float32's range a scale that was rounded up leads beyond it.
  if (std::isfinite(largest) && !std::isfinite(most * scale)) return std::nextafter(scale, 0.0f);
  return scale;
}

float largest_number(DType dtype, float scale) {
  const float most = largest_of(dtype);
  if (std::isfinite(most * scale)) return most;
  const auto largest_finite = [scale](auto number) {  // positive ones grow with their bits
    while (!std::isfinite(to_float(number) * scale)) --number.bits;
    return to_float(number);
  };
  return visit_quantised_dtype(
      dtype, [&](auto type) { return largest_finite(from_float<decltype(type)>(most)); });
}

void divide_row(const float* row, std::int64_t count, DType dtype, float scale,
                std::byte* numbers) {
  visit_quantised_dtype(dtype, [&](auto type) {
    for (std::int64_t i = 0; i < count; ++i) {
      numbers[i] = static_cast<std::byte>(rounded(row[i] / scale, type));
    }
  });
}

void open_row(const std::byte* numbers, DType dtype, float scale, std::int64_t count, float* row) {
  visit_cache_dtype(dtype, [&](auto type) {
    const auto* from = reinterpret_cast<const decltype(type)*>(numbers);
    for (std::int64_t i = 0; i < count; ++i) row[i] = to_float(from[i]) * scale;
  });
}

}  // namespace quire
