#include "quire/io/gguf_blocks.h"

#include <cstring>

#include "quire/base/dtype.h"

namespace quire {
namespace {

// The entries of IQ4_NL and IQ4_XS.
constexpr std::int8_t kTable[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};
constexpr int kGroups = 8;  // of 32 numbers, in a block of 256

std::uint32_t byte_at(const std::byte* from, std::int64_t i) {
  return std::to_integer<std::uint32_t>(from[i]);
}

float half_at(const std::byte* from) {
  Float16 half;
  std::memcpy(&half, from, sizeof half);
  return to_float(half);
}

float int8_at(const std::byte* from, std::int64_t i) {
  return static_cast<float>(static_cast<std::int8_t>(byte_at(from, i)));
}

// Codes of 32 numbers in 16 bytes, low 0-15, high 16-31.
template <class Visit>
void codes_of_32(const std::byte* from, const Visit& visit) {
  for (int i = 0; i < 16; ++i) {
    visit(i, byte_at(from, i) & 15u);
    visit(i + 16, byte_at(from, i) >> 4);
  }
}

template <bool kHasMinimum>
void read_q4(const std::byte* block, const AffineRows& to) {
  *to.scales = half_at(block);
  *to.offsets = kHasMinimum ? half_at(block + 2) : -8.0f * *to.scales;
  codes_of_32(block + (kHasMinimum ? 4 : 2),
              [&](int i, std::uint32_t code) { to.numbers[i] = static_cast<std::int8_t>(code); });
}

template <bool kHasMinimum>
void read_q5(const std::byte* block, const AffineRows& to) {
  *to.scales = half_at(block);
  *to.offsets = kHasMinimum ? half_at(block + 2) : -16.0f * *to.scales;
  const std::byte* const bits = block + (kHasMinimum ? 4 : 2);
  codes_of_32(bits + 4, [&](int i, std::uint32_t code) {
    const std::uint32_t fifth = byte_at(bits, i / 8) >> i % 8 & 1u;
    to.numbers[i] = static_cast<std::int8_t>(code | fifth << 4);
  });
}

void read_q8_0(const std::byte* block, const AffineRows& to) {
  *to.scales = half_at(block);
  *to.offsets = 0;
  std::memcpy(to.numbers, block + 2, 32);
}

// The scales and minima of Q4_K and Q5_K, whose first four lie in the low six bits of their bytes;
// the upper two bits of those bytes are the upper ones of the last four.
struct GroupScales {
  float scales[kGroups], offsets[kGroups];

  explicit GroupScales(const std::byte* block) {
    const float d = half_at(block), m = half_at(block + 2);
    const std::byte* const packed = block + 4;
    for (int i = 0; i < kGroups; ++i) {
      std::uint32_t scale, minimum;
      if (i < 4) {
        scale = byte_at(packed, i) & 63u;
        minimum = byte_at(packed, i + 4) & 63u;
      } else {
        scale = (byte_at(packed, i + 4) & 15u) | byte_at(packed, i - 4) >> 6 << 4;
        minimum = byte_at(packed, i + 4) >> 4 | byte_at(packed, i) >> 6 << 4;
      }
      scales[i] = d * static_cast<float>(scale);
      offsets[i] = -(m * static_cast<float>(minimum));
    }
  }

  void copy(const AffineRows& to) const {
    std::memcpy(to.scales, scales, sizeof scales);
    std::memcpy(to.offsets, offsets, sizeof offsets);
  }
};

// Codes of 256 numbers in 128 bytes, low 0-31, high 32-63 of each 64.
template <class Visit>
void codes_of_256(const std::byte* from, const Visit& visit) {
  for (int i = 0; i < 256; ++i) {
    const std::uint32_t both = byte_at(from, i / 64 * 32 + i % 32);
    visit(i, i % 64 < 32 ? both & 15u : both >> 4);
  }
}

void read_q4_k(const std::byte* block, const AffineRows& to) {
  GroupScales(block).copy(to);
  codes_of_256(block + 16,
               [&](int i, std::uint32_t code) { to.numbers[i] = static_cast<std::int8_t>(code); });
}

void read_q5_k(const std::byte* block, const AffineRows& to) {
  GroupScales(block).copy(to);
  codes_of_256(block + 48, [&](int i, std::uint32_t code) {
    const std::uint32_t fifth = byte_at(block + 16, i % 32) >> i / 32 & 1u;
    to.numbers[i] = static_cast<std::int8_t>(code | fifth << 4);
  });
}

// Of each half of 128 numbers: number i has its low four bits in byte i % 64, low 0-63, high
// 64-127, and its upper two in byte i % 32, from bit 2 (i / 32) on.
void read_q6_k(const std::byte* block, float* to) {
  const std::byte *const low = block, *const upper = block + 128, *const scales = block + 192;
  const float d = half_at(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, j = i % 128;
    const std::uint32_t both = byte_at(low, half * 64 + j % 64);
    const std::uint32_t two = byte_at(upper, half * 32 + j % 32) >> j / 32 * 2 & 3u;
    const auto code = static_cast<int>((j < 64 ? both & 15u : both >> 4) | two << 4);
    to[i] = d * int8_at(scales, i / 16) * static_cast<float>(code - 32);
  }
}

void read_iq4_nl(const std::byte* block, const AffineRows& to) {
  *to.scales = half_at(block);
  *to.offsets = 0;
  codes_of_32(block + 2, [&](int i, std::uint32_t code) { to.numbers[i] = kTable[code]; });
}

void read_iq4_xs(const std::byte* block, const AffineRows& to) {
  const float d = half_at(block);
  const std::uint32_t upper = byte_at(block, 2) | byte_at(block, 3) << 8;
  for (int group = 0; group < kGroups; ++group) {
    const std::uint32_t low = byte_at(block + 4, group / 2) >> group % 2 * 4 & 15u;
    const auto scale = static_cast<int>(low | (upper >> 2 * group & 3u) << 4);
    to.scales[group] = d * static_cast<float>(scale - 32);
    to.offsets[group] = 0;
    codes_of_32(block + 8 + group * 16,
                [&](int i, std::uint32_t code) { to.numbers[group * 32 + i] = kTable[code]; });
  }
}

// What the affine numbers of a block stand for.
template <ReadAffineBlock kRead, int kNumbers>
void read_numbers(const std::byte* block, float* to) {
  std::int8_t numbers[kNumbers];
  float scales[kNumbers / kAffineGroup], offsets[kNumbers / kAffineGroup];
  kRead(block, {numbers, scales, offsets});
  for (int i = 0; i < kNumbers; ++i) {
    to[i] = scales[i / kAffineGroup] * static_cast<float>(numbers[i]) + offsets[i / kAffineGroup];
  }
}

template <ReadAffineBlock kRead, int kNumbers>
constexpr TensorFormat affine(std::string_view name, std::int64_t bytes, DType dtype) {
  return {name, kNumbers, bytes, &read_numbers<kRead, kNumbers>, kRead, dtype};
}

struct NumberedFormat {
  std::uint32_t type;
  TensorFormat format;
};

constexpr NumberedFormat kFormats[] = {
    {2, affine<&read_q4<false>, 32>("Q4_0", 18, DType::int4)},
    {3, affine<&read_q4<true>, 32>("Q4_1", 20, DType::int4)},
    {6, affine<&read_q5<false>, 32>("Q5_0", 22, DType::int8)},
    {7, affine<&read_q5<true>, 32>("Q5_1", 24, DType::int8)},
    {8, affine<&read_q8_0, 32>("Q8_0", 34, DType::int8)},
    {10, {"Q2_K", 256, 84}},
    {11, {"Q3_K", 256, 110}},
    {12, affine<&read_q4_k, 256>("Q4_K", 144, DType::int4)},
    {13, affine<&read_q5_k, 256>("Q5_K", 176, DType::int8)},
    {14, {"Q6_K", 256, 210, &read_q6_k}},
    {16, {"IQ2_XXS", 256, 66}},
    {17, {"IQ2_XS", 256, 74}},
    {18, {"IQ3_XXS", 256, 98}},
    {19, {"IQ1_S", 256, 50}},
    {20, affine<&read_iq4_nl, 32>("IQ4_NL", 18, DType::int8)},
    {21, {"IQ3_S", 256, 110}},
    {22, {"IQ2_S", 256, 82}},
    {23, affine<&read_iq4_xs, 256>("IQ4_XS", 136, DType::int8)},
    {24, {"I8", 1, 1}},
    {25, {"I16", 1, 2}},
    {26, {"I32", 1, 4}},
    {27, {"I64", 1, 8}},
    {28, {"F64", 1, 8}},
    {29, {"IQ1_M", 256, 56}},
    {34, {"TQ1_0", 256, 54}},
    {35, {"TQ2_0", 256, 66}},
    {39, {"MXFP4", 32, 17}},
};

}  // namespace

const TensorFormat* gguf_format(std::uint32_t type) {
  if (type == 0) return plain_format("F32");
  if (type == 1) return plain_format("F16");
  if (type == 30) return plain_format("BF16");
  for (const NumberedFormat& numbered : kFormats) {
    if (numbered.type == type) return &numbered.format;
  }
  return nullptr;
}

}  // namespace quire
