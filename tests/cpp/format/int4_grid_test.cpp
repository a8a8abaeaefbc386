#include "quire/format/int4_grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "quire/format/row_sealing.h"

namespace quire {
namespace {

float step_of(Int4Grid grid) { return to_float(grid.step); }

// As the plain functions seal them: keys, whose grids are each channel's, and one value.
void seal_keys(const std::vector<float>& keys, std::int64_t tokens, std::int64_t head_dim,
               std::byte* codes, std::int64_t stride, Int4Grid* grids) {
  const auto bytes = head_dim * static_cast<std::int64_t>(sizeof(float));
  kPlainSealing.keys(
      {reinterpret_cast<const std::byte*>(keys.data()), bytes, DType::float32, tokens, head_dim},
      {codes, stride, reinterpret_cast<std::byte*>(grids), 0});
}
void seal_value(const float* value, std::int64_t v_head_dim, std::byte* codes, Int4Grid* grid) {
  kPlainSealing.values(
      {reinterpret_cast<const std::byte*>(value), 0, DType::float32, 1, v_head_dim},
      {codes, 0, reinterpret_cast<std::byte*>(grid), 0});
}

// What a grid's own rounding to float16 may add to half a step.
float slack(float lowest, float highest) {
  return std::max(std::fabs(lowest), std::fabs(highest)) * 0x1p-10f + 0x1p-24f;
}

TEST(Int4Grid, EveryCodeIsAtItsPlaceAndComesBack) {
  const Int4Grid grid{from_float<Float16>(0.5f), from_float<Float16>(-3.0f)};
  for (int u = 0; u < 16; ++u) {
    const auto code = static_cast<std::uint8_t>(u);
    EXPECT_EQ(from_int4(code, grid), -3.0f + 0.5f * static_cast<float>(u - 8));
    EXPECT_EQ(to_int4(from_int4(code, grid), grid), u);
  }
  EXPECT_EQ(to_int4(-100.0f, grid), 0);
  EXPECT_EQ(to_int4(100.0f, grid), 15);
  EXPECT_EQ(to_int4(-3.0f + 0.25f, grid), 8);   // ties to the even n: 0
  EXPECT_EQ(to_int4(-3.0f + 0.75f, grid), 10);  // and 2
}

TEST(Int4Grid, LowerHalfOfAByteComesFirst) {
  const std::byte row[] = {std::byte{0x21}, std::byte{0xf3}};
  EXPECT_EQ(int4_at(row, 0), 1);
  EXPECT_EQ(int4_at(row, 1), 2);
  EXPECT_EQ(int4_at(row, 2), 3);
  EXPECT_EQ(int4_at(row, 3), 15);
}

TEST(Int4Grid, EndsAreNearTheirPoints) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> any(-50.0f, 50.0f);
  for (int i = 0; i < 1000; ++i) {
    const float a = any(random), b = any(random);
    const float lowest = std::min(a, b), highest = std::max(a, b);
    const Int4Grid grid = grid_between(lowest, highest);
    EXPECT_NEAR(from_int4(0, grid), lowest, 8 * slack(lowest, highest));
    EXPECT_NEAR(from_int4(15, grid), highest, 8 * slack(lowest, highest));
  }
}

TEST(Int4Grid, StepsArePositiveAndMiddlesFinite) {
  for (const auto& [lowest, highest] :
       {std::pair{0.0f, 0.0f}, std::pair{5.0f, 5.0f}, std::pair{-1e-30f, 1e-30f},
        std::pair{-kLargestOnGrid, kLargestOnGrid}, std::pair{kLargestOnGrid, kLargestOnGrid},
        std::pair{-kLargestOnGrid, -kLargestOnGrid}}) {
    const Int4Grid grid = grid_between(lowest, highest);
    EXPECT_GT(step_of(grid), 0.0f);
    EXPECT_TRUE(std::isfinite(step_of(grid)) && std::isfinite(to_float(grid.middle)));
    for (const float x : {lowest, highest}) {
      EXPECT_NEAR(from_int4(to_int4(x, grid), grid), x, 0.5f * step_of(grid) + slack(x, x));
    }
  }
}

// Keys: tokens of very different channels. Each comes back within half a step of its channel, and
// only the codes asked for are written.
TEST(Int4Grid, KeysComeBackByChannel) {
  constexpr std::int64_t kTokens = 5, kSize = 6, kStride = 7;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> keys(kTokens * kSize);
  for (std::int64_t i = 0; i < kTokens * kSize; ++i) {
    const auto channel = static_cast<float>(i % kSize);
    keys[i] = std::pow(10.0f, channel - 3) * (normal(random) + channel);
  }
  std::vector<std::byte> codes(kTokens * kStride, std::byte{0xa5});
  Int4Grid grids[kSize];
  seal_keys(keys, kTokens, kSize, codes.data(), kStride, grids);
  for (std::int64_t token = 0; token < kTokens; ++token) {
    float back[kSize];
    open_key(codes.data() + token * kStride, grids, kSize, back);
    for (std::int64_t d = 0; d < kSize; ++d) {
      const float x = keys[token * kSize + d];
      EXPECT_NEAR(back[d], x, 0.5f * step_of(grids[d]) + slack(x, x)) << token << " " << d;
    }
    for (std::int64_t i = kSize / 2; i < kStride; ++i) {
      EXPECT_EQ(codes[token * kStride + i], std::byte{0xa5});
    }
  }
}

// Element by element, for rows of any length: what is done in vectors does the same.
TEST(Int4Grid, LongRowsAreSealedAsTheirElements) {
  constexpr std::int64_t kTokens = 3;
  const auto code_of = [](float x, Int4Grid grid) {
    const float n = std::nearbyint((x - to_float(grid.middle)) / to_float(grid.step));
    return static_cast<int>(std::clamp(n, -8.0f, 7.0f)) + 8;
  };
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (std::int64_t size = 2; size <= 200; size += 2) {
    std::vector<float> rows(kTokens * size);
    // some of them halves, so that there are ties
    for (float& x : rows) x = random() % 2 == 0 ? normal(random) : std::round(normal(random)) / 2;
    std::vector<std::byte> codes(kTokens * size / 2);
    std::vector<Int4Grid> grids(size);
    seal_keys(rows, kTokens, size, codes.data(), size / 2, grids.data());
    for (std::int64_t d = 0; d < size; ++d) {
      const auto [lowest, highest] = std::minmax({rows[d], rows[size + d], rows[2 * size + d]});
      const Int4Grid grid = grid_between(lowest, highest);
      ASSERT_EQ(grids[d].step.bits, grid.step.bits) << size << " " << d;
      ASSERT_EQ(grids[d].middle.bits, grid.middle.bits) << size << " " << d;
      for (std::int64_t token = 0; token < kTokens; ++token) {
        const std::byte* const row = codes.data() + token * size / 2;
        ASSERT_EQ(int4_at(row, d), code_of(rows[token * size + d], grid)) << size << " " << d;
      }
    }
    Int4Grid grid;
    seal_value(rows.data(), size, codes.data(), &grid);
    const auto [lowest, highest] = std::minmax_element(rows.begin(), rows.begin() + size);
    ASSERT_EQ(grid.step.bits, grid_between(*lowest, *highest).step.bits) << size;
    ASSERT_EQ(grid.middle.bits, grid_between(*lowest, *highest).middle.bits) << size;
    for (std::int64_t d = 0; d < size; ++d) {
      ASSERT_EQ(int4_at(codes.data(), d), code_of(rows[d], grid)) << size << " " << d;
    }
  }
}

TEST(Int4Grid, ValuesComeBackByToken) {
  const float value[] = {-1.0f, 0.25f, 3.0f, 14.0f};
  std::byte codes[2];
  Int4Grid grid;
  seal_value(value, 4, codes, &grid);
  EXPECT_EQ(step_of(grid), 1.0f);
  float back[4];
  open_value(codes, grid, 4, back);
  EXPECT_EQ(back[0], -1.0f);
  EXPECT_EQ(back[1], 0.0f);
  EXPECT_EQ(back[2], 3.0f);
  EXPECT_EQ(back[3], 14.0f);
}

}  // namespace
}  // namespace quire
