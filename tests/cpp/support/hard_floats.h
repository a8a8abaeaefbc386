// Floats that arithmetic goes wrong on: what is no number, has no room, has little precision, or
// lies in the middle of two others.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

namespace quire::testing {

inline std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float of_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// Bit for bit; but that of two NaNs it does not matter which they are.
inline bool is_same(float a, float b) {
  return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b));
}

// "1.5 (0x3fc00000)"
inline std::string shown(float x) {
  char text[48];
  std::snprintf(text, sizeof text, "%.9g (0x%08x)", static_cast<double>(x), bits_of(x));
  return text;
}

// Some of each kind, of both signs.
inline std::vector<float> hard_floats() {
  constexpr float kMost = std::numeric_limits<float>::max();
  constexpr std::uint32_t kNaNs[] = {0x7f800001, 0x7fa00000, 0x7fc00000, 0x7fc12345, 0x7fffffff};
  std::vector<float> floats;
  for (const float x : {0.0f,
                        0x1p-149f,
                        0x1.fffffcp-127f,
                        0x1p-126f,
                        0x1p-75f,
                        0x1p-24f,
                        0x1p-14f,
                        0.1f,
                        0.5f,
                        0.75f,
                        0x1.fffffep-1f,
                        1.0f,
                        0x1.000002p0f,
                        1.5f,
                        2.5f,
                        7.0f,
                        7.5f,
                        8.5f,
                        127.0f,
                        0x1p23f,
                        0x1.000002p23f,
                        0x1p24f,
                        0x1.8p23f,
                        65504.f,
                        65520.0f,
                        0x1p64f,
                        0x1p127f,
                        kMost,
                        std::numeric_limits<float>::infinity()}) {
    floats.insert(floats.end(), {x, -x});
  }
  for (const std::uint32_t nan : kNaNs) {
    floats.insert(floats.end(), {of_bits(nan), of_bits(nan | 0x80000000u)});
  }
  return floats;
}

// Every sign, exponent and upper ten bits of a mantissa, and with each of them what lies below is
// nothing, almost half, half, a little more, almost all: so all that rounds to an element of 16 or
// of 8 bits is there with its neighbours. In an emulator only one in 17.
inline std::vector<float> floats_to_round() {
  const std::uint32_t step = std::getenv("QUIRE_EMULATED") != nullptr ? 17 : 1;
  std::vector<float> floats;
  for (std::uint32_t upper = 0; upper < 1u << 19; upper += step) {
    for (const std::uint32_t lower : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      floats.push_back(of_bits(upper << 13 | lower));
    }
  }
  return floats;
}

}  // namespace quire::testing
