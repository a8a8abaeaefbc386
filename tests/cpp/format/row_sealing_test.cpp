// Rows of sealed blocks, against one number at a time.
#include "quire/format/row_sealing.h"

#include <gtest/gtest.h>

#include "quire/format/int4_grid.h"
#include "quire/format/row_scale.h"
#include "support/adversarial_rows.h"

namespace quire::testing {
namespace {

float number_at(const RowsToSeal& rows, std::int64_t row, std::int64_t i) {
  return visit_dtype(rows.dtype, [&](auto type) {
    return to_float(reinterpret_cast<const decltype(type)*>(rows.from + row * rows.stride)[i]);
  });
}

// A number as a grid holds it, 0 where none does.
bool is_held(float x) { return std::fabs(x) <= 65536.0f; }
float held(float x) {
  if (!is_held(x)) return 0;
  return std::max(-kLargestOnGrid, std::min(kLargestOnGrid, x));
}

void put_code(const SealedRows& to, std::int64_t row, std::int64_t i, std::uint8_t code) {
  std::byte& pair = to.numbers[row * to.stride + i / 2];
  pair = i % 2 == 0 ? std::byte{code} : pair | static_cast<std::byte>(code << 4);
}

// The numbers at `places` share a grid, which is written to `to`.
template <class Places, class Put>
void share_grid(const RowsToSeal& rows, const Places& places, std::byte* to, Put put) {
  float lowest = kLargestOnGrid, highest = -kLargestOnGrid;
  bool all_held = true;
  for (const auto& [row, i] : places) {
    const float x = number_at(rows, row, i);
    all_held = all_held && is_held(x);
    lowest = std::min(lowest, held(x));
    highest = std::max(highest, held(x));
  }
  Int4Grid grid = grid_between(lowest, highest);
  for (const auto& [row, i] : places) put(row, i, to_int4(held(number_at(rows, row, i)), grid));
  if (!all_held) grid = {{0x7e00}, {0x7e00}};
  std::memcpy(to, &grid, sizeof grid);
}

using Place = std::pair<std::int64_t, std::int64_t>;

TEST(RowSealing, KeysShareGridsByChannel) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 400; ++trial) {
    const RowsAndRoom rows = hard_rows(random, trial % kKindsOfRows);
    const auto expected = rows.sealed([](const RowsToSeal& keys, const SealedRows& to) {
      for (std::int64_t i = 0; i < keys.length; ++i) {
        std::vector<Place> places;
        for (std::int64_t row = 0; row < keys.count; ++row) places.emplace_back(row, i);
        share_grid(keys, places, to.scales + 4 * i, [&](auto... code) { put_code(to, code...); });
      }
    });
    ASSERT_TRUE(rows.sealed(kPlainSealing.keys) == expected) << trial;
  }
}

TEST(RowSealing, ValuesShareGridsByRow) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 400; ++trial) {
    const RowsAndRoom rows = hard_rows(random, trial % kKindsOfRows);
    const auto expected = rows.sealed([](const RowsToSeal& values, const SealedRows& to) {
      for (std::int64_t row = 0; row < values.count; ++row) {
        std::vector<Place> places;
        for (std::int64_t i = 0; i < values.length; ++i) places.emplace_back(row, i);
        share_grid(values, places, to.scales + row * to.scale_stride,
                   [&](auto... code) { put_code(to, code...); });
      }
    });
    ASSERT_TRUE(rows.sealed(kPlainSealing.values) == expected) << trial;
  }
}

TEST(RowSealing, RowsHaveScalesOfTheirOwn) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 400; ++trial) {
    const RowsAndRoom rows = hard_rows(random, trial % kKindsOfRows);
    for (const DType dtype : kQuantisedDTypes) {
      const auto expected = rows.sealed([&](const RowsToSeal& all, const SealedRows& to) {
        for (std::int64_t row = 0; row < all.count; ++row) {
          std::vector<float> numbers;
          for (std::int64_t i = 0; i < all.length; ++i) numbers.push_back(number_at(all, row, i));
          const float scale = scale_of_row(largest_magnitude(numbers.data(), all.length), dtype);
          divide_row(numbers.data(), all.length, dtype, scale, to.numbers + row * to.stride);
          std::memcpy(to.scales + row * to.scale_stride, &scale, sizeof scale);
        }
      });
      ASSERT_TRUE(rows.sealed([&](const RowsToSeal& all, const SealedRows& to) {
        kPlainSealing.rows(all, dtype, to);
      }) == expected)
          << trial << " " << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace quire::testing
