#include "quire/base/dtype.h"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "quire/base/check.h"

namespace quire {
namespace {

// Eigen's own conversions are the oracle.
TEST(DType, EveryFloat16IsExact) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 value{static_cast<std::uint16_t>(bits)};
    const float expected = static_cast<float>(Eigen::numext::bit_cast<Eigen::half>(value.bits));
    const float got = to_float(value);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
    } else {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(expected)) << bits;
      EXPECT_EQ(from_float<Float16>(got).bits, value.bits);
    }
  }
}

TEST(DType, EveryBFloat16IsExact) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const BFloat16 value{static_cast<std::uint16_t>(bits)};
    const float got = to_float(value);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(got), bits << 16);
    EXPECT_TRUE(std::isnan(got) || from_float<BFloat16>(got).bits == value.bits);
  }
}

void expect_rounded(float value) {
  if (std::isnan(value)) {
    EXPECT_TRUE(std::isnan(to_float(from_float<Float16>(value))));
    EXPECT_TRUE(std::isnan(to_float(from_float<BFloat16>(value))));
    return;
  }
  EXPECT_EQ(from_float<Float16>(value).bits,
            Eigen::numext::bit_cast<std::uint16_t>(Eigen::half(value)))
      << value;
  EXPECT_EQ(from_float<BFloat16>(value).bits,
            Eigen::numext::bit_cast<std::uint16_t>(Eigen::bfloat16(value)))
      << value;
}

TEST(DType, RoundsToNearestEven) {
  std::mt19937 random(1);
  for (int i = 0; i < 2'000'000; ++i)
    expect_rounded(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  // ties and their neighbours, in and out of the subnormals
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    for (const std::uint32_t low : {0u, 0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u}) {
      expect_rounded(std::bit_cast<float>((bits << 16) | low));
    }
  }
  for (const float value : {65519.0f, 65520.0f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f}) {
    expect_rounded(value);
    expect_rounded(-value);
  }
}

TEST(DType, Names) {
  for (const DType dtype : kDTypes) {
    EXPECT_EQ(dtype_from_name(name_of(dtype), "f: x"), dtype);
    EXPECT_EQ(visit_dtype(dtype, [](auto type) { return sizeof(type); }), size_of(dtype));
  }
  for (const DType dtype : kQuantisedDTypes) {
    EXPECT_EQ(dtype_from_name(name_of(dtype), "f: x"), dtype);
    EXPECT_EQ(visit_cache_dtype(dtype, [](auto type) { return sizeof(type); }), size_of(dtype));
  }
  EXPECT_EQ(dtype_from_name("int4", "f: x"), DType::int4);
  try {
    dtype_from_name("int9", "BlockPool: dtype");
    FAIL();
  } catch (const TypeError& error) {
    EXPECT_STREQ(error.what(),
                 "BlockPool: dtype: got int9, expected float32, float16, bfloat16, int8, "
                 "float8_e4m3fn, float8_e5m2 or int4");
  }
}

// Every number, every midpoint of two, and the floats next to them.
template <class T>
void expect_nearest(int numbers, float largest) {
  std::vector<std::pair<float, int>> ordered;  // by value, with their bits
  for (int bits = 0; bits < numbers; ++bits) {
    T number{};
    number.bits = static_cast<decltype(number.bits)>(bits);
    if (to_float(number) <= largest && to_float(number) >= 0) {
      ordered.emplace_back(to_float(number), bits);
    }
  }
  std::sort(ordered.begin(), ordered.end());
  const auto stored = [](float x) { return to_float(from_float<T>(x)); };
  for (std::size_t i = 0; i + 1 < ordered.size(); ++i) {
    const auto [low, low_bits] = ordered[i];
    const auto [high, high_bits] = ordered[i + 1];
    const float middle = (low + high) / 2;
    const float even = low_bits % 2 == 0 ? low : high;
    for (const float sign : {1.0f, -1.0f}) {
      EXPECT_EQ(stored(sign * low), sign * low);
      EXPECT_EQ(stored(sign * middle), sign * even) << middle;
      EXPECT_EQ(stored(sign * std::nextafter(middle, low)), sign * low) << middle;
      EXPECT_EQ(stored(sign * std::nextafter(middle, high)), sign * high) << middle;
    }
  }
  EXPECT_EQ(ordered.back().first, largest);
  for (const float large : {largest, largest + 1, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(stored(large), largest);
    EXPECT_EQ(stored(-large), -largest);
  }
}

TEST(DType, QuantisedNumbersAreTheNearest) {
  expect_nearest<Int8>(128, largest_of(DType::int8));
  expect_nearest<Float8E4M3>(127, largest_of(DType::float8_e4m3fn));
  expect_nearest<Float8E5M2>(124, largest_of(DType::float8_e5m2));
  EXPECT_EQ(to_float(Float8E5M2{0x01}), 0x1p-16f);
  EXPECT_EQ(to_float(Float8E5M2{0x3c}), 1.0f);
  EXPECT_EQ(to_float(Float8E5M2{0xfc}), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(to_float(Float8E5M2{0x7d})) && std::isnan(to_float(Float8E5M2{0xff})));
  EXPECT_TRUE(
      std::isnan(to_float(from_float<Float8E5M2>(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_EQ(to_float(Int8{-128}), -128);
  EXPECT_EQ(to_float(Float8E4M3{0x01}), 0x1p-9f);
  EXPECT_EQ(to_float(Float8E4M3{0x38}), 1.0f);
  EXPECT_TRUE(std::isnan(to_float(Float8E4M3{0x7f})) && std::isnan(to_float(Float8E4M3{0xff})));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(to_float(from_float<Float8E4M3>(nan))));
  EXPECT_EQ(to_float(from_float<Int8>(nan)), 0);
}

}  // namespace
}  // namespace quire
