// Numbers as codes of four bits (int4_grid.h), in a form that compilers make vectors of.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace quire {

// Numbers that are worked on together. Even.
inline constexpr std::int64_t kCodesAtOnce = 64;

// Grids of them, as floats.
struct GridsOfCodes {
  float step[kCodesAtOnce], middle[kCodesAtOnce];
};

// The nearest u, as to_int4. Cut off by magnitude first, in whole numbers, which compilers make
// vectors of as it stands. At 1.5 * 2^23 floats are 1 apart, and the lowest bits of n + 8 are u, of
// which 16 is one too many.
inline std::uint8_t nearest_code(float value, float step, float middle) {
  constexpr std::int32_t kMost = std::bit_cast<std::int32_t>(8.0f);
  const auto n = std::bit_cast<std::uint32_t>((value - middle) / step);
  const std::int32_t magnitude = std::min(static_cast<std::int32_t>(n & 0x7fffffffu), kMost);
  const float cut = std::bit_cast<float>((n & 0x80000000u) | static_cast<std::uint32_t>(magnitude));
  const std::int32_t u = std::bit_cast<std::int32_t>(cut + (0x1.8p23f + 8.0f)) & 0x1f;
  return static_cast<std::uint8_t>(std::min(u, 15));
}

// `count` finite floats, even and at most kCodesAtOnce, as codes, two to a byte.
inline void write_codes(const float* values, const GridsOfCodes& grids, std::int64_t count,
                        std::byte* codes) {
  std::uint8_t u[kCodesAtOnce];
  for (std::int64_t i = 0; i < count; ++i) {
    u[i] = nearest_code(values[i], grids.step[i], grids.middle[i]);
  }
  for (std::int64_t i = 0; i < count / 2; ++i) {
    codes[i] = static_cast<std::byte>(u[2 * i] | u[2 * i + 1] << 4);
  }
}

}  // namespace quire
