// Rows that are hard to seal: what no grid holds, ties, zeros, subnormal numbers.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "quire/format/row_sealing.h"

namespace quire::testing {

// Rows of plain floats, some bytes apart, and room for what they become.
struct RowsAndRoom {
  RowsAndRoom(DType type, std::int64_t rows, std::int64_t size, std::int64_t gap)
      : dtype(type),
        count(rows),
        length(size),
        stride(size * static_cast<std::int64_t>(size_of(type)) + 4 * gap),
        room_stride(size + gap),
        bytes(static_cast<std::size_t>(rows * stride), std::byte{0x7f}) {}

  void set(std::int64_t row, std::int64_t i, float value) {
    visit_dtype(dtype, [&](auto type) {
      const auto number = from_float<decltype(type)>(value);
      std::memcpy(bytes.data() + row * stride + i * static_cast<std::int64_t>(sizeof number),
                  &number, sizeof number);
    });
  }

  RowsToSeal rows() const { return {bytes.data(), stride, dtype, count, length}; }

  // All that sealing writes, and what lies between and must stay.
  struct Room {
    std::vector<std::byte> numbers, scales;
    bool operator==(const Room&) const = default;
  };
  template <class Seal>
  Room sealed(Seal seal) const {
    const std::int64_t scale_stride = 12;
    Room room{
        std::vector<std::byte>(static_cast<std::size_t>(count * room_stride), std::byte{0xa5}),
        std::vector<std::byte>(static_cast<std::size_t>(std::max(4 * length, count * scale_stride)),
                               std::byte{0xa5})};
    seal(rows(), SealedRows{room.numbers.data(), room_stride, room.scales.data(), scale_stride});
    return room;
  }

  DType dtype;
  std::int64_t count, length, stride, room_stride;
  std::vector<std::byte> bytes;
};

inline constexpr int kKindsOfRows = 8;

// Of one of these kinds, of any size.
inline RowsAndRoom hard_rows(std::mt19937& random, int kind) {
  const auto pick = [&](auto... choices) {
    const std::int64_t all[] = {choices...};
    return all[random() % sizeof...(choices)];
  };
  RowsAndRoom rows(kDTypes[random() % 3], pick(1, 2, 3, 16, 20, 37),
                   pick(2, 4, 6, 14, 16, 18, 30, 32, 34, 64, 66, 96, 128, 130), pick(0, 3, 16));
  std::normal_distribution<float> normal;
  const auto all = [&](auto number) {
    for (std::int64_t row = 0; row < rows.count; ++row) {
      for (std::int64_t i = 0; i < rows.length; ++i) rows.set(row, i, number(row, i));
    }
  };
  const float scale = std::ldexp(1.0f, static_cast<int>(random() % 34) - 24);
  all([&](auto, auto) { return normal(random) * scale; });
  if (kind == 1) {  // what no grid holds, and what it just holds, here and there
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float odd[] = {NAN,      -NAN,      kInfinity, -kInfinity, 65504.0f, -65504.0f, 65519.0f,
                         65520.0f, -65535.0f, 65536.0f,  -65536.0f,  65537.0f, 66048.0f,  -3e38f};
    for (std::uint32_t i = 0; i < 1 + random() % 4; ++i) {
      rows.set(random() % rows.count, random() % rows.length, odd[random() % std::size(odd)]);
    }
  } else if (kind == 2) {  // the largest spread
    all([&](auto, auto) { return random() % 2 == 0 ? 65504.0f : -65504.0f; });
  } else if (kind == 3) {  // no spread: the smallest step
    const float same = normal(random) * scale;
    all([&](auto, auto) { return same; });
  } else if (kind == 4) {  // zeros of both signs
    all([&](auto, auto) { return random() % 2 == 0 ? 0.0f : -0.0f; });
  } else if (kind == 5) {  // grids of step 1 about 0, and numbers in the middle of two points
    all([&](std::int64_t row, std::int64_t i) {
      if (row == 0 || i == 0) return -8.0f;
      if (row == 1 || i == 1) return 7.0f;
      return static_cast<float>(random() % 31) / 2 - 8.0f;
    });
  } else if (kind == 6) {  // subnormal, in float16 and in float32
    const float tiny = random() % 2 == 0 ? 0x1p-24f : 0x1p-149f;
    all([&](auto, auto) { return static_cast<float>(random() % 64) * tiny; });
  } else if (kind == 7) {  // one that takes the grid from the others
    rows.set(random() % rows.count, random() % rows.length, 60000.0f);
  }
  return rows;
}

}  // namespace quire::testing
