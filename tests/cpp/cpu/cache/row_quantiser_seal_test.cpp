// Rows of int8 and float8 as write_kv writes them, bit for bit, on every instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "quire/cpu/operations.h"
#include "quire/format/row_scale.h"
#include "support/with_instruction_set.h"

namespace quire::testing {
namespace {

struct Row {
  std::vector<std::byte> numbers;
  float scale;
  bool operator==(const Row&) const = default;
};

Row sealed(const std::vector<float>& row, DType dtype) {
  Row result{std::vector<std::byte>(row.size()), 0};
  const auto count = static_cast<std::int64_t>(row.size());
  result.scale = scale_of_row(largest_magnitude(row.data(), count), dtype);
  divide_row(row.data(), count, dtype, result.scale, result.numbers.data());
  return result;
}

ArrayView view_of(void* data, DType dtype, std::vector<std::int64_t> shape) {
  ArrayView view;
  view.data = static_cast<std::byte*>(data);
  view.dtype = dtype;
  view.ndim = static_cast<int>(shape.size());
  auto stride = static_cast<std::int64_t>(size_of(dtype));
  for (int axis = view.ndim - 1; axis >= 0; --axis) {
    view.shape[axis] = shape[axis];
    view.strides[axis] = stride;
    stride *= shape[axis];
  }
  return view;
}

// The row as the one of a cache of one slot, with a scale of its own or, where there is one, that
// of the cache.
Row written(std::vector<float> row, DType dtype, float static_scale = 0) {
  const auto count = static_cast<std::int64_t>(row.size());
  Row k{std::vector<std::byte>(row.size()), static_scale}, v = k;
  const std::int64_t slot = 0;
  const std::vector<std::int64_t> scale_shape(static_scale == 0 ? 3 : 0, 1);
  WriteKvArgs args{view_of(row.data(), DType::float32, {1, 1, count}),
                   view_of(row.data(), DType::float32, {1, 1, count}),
                   view_of(k.numbers.data(), dtype, {1, 1, 1, count}),
                   view_of(v.numbers.data(), dtype, {1, 1, 1, count}),
                   contiguous_index_view(&slot, {1}),
                   Layout::NHD,
                   view_of(&k.scale, DType::float32, scale_shape),
                   view_of(&v.scale, DType::float32, scale_shape)};
  write_kv(args, 1);
  EXPECT_EQ(k, v);
  return k;
}

class RowScale : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, RowScale, ::testing::ValuesIn(kQuantisedDTypes),
                         [](const auto& info) { return std::string(name_of(info.param)); });

void expect_as_written(const std::vector<float>& row, DType dtype) {
  const Row expected = sealed(row, dtype);
  for (const std::string_view name : available_instruction_sets()) {
    const WithInstructionSet on_it(name);
    ASSERT_EQ(written(row, dtype), expected) << name;
  }
}

TEST_P(RowScale, RandomRowsAsWriteKv) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<float> row(1 + random() % 150);
    const int exponent = static_cast<int>(random() % 230) - 125;
    std::normal_distribution<float> normal;
    for (float& x : row) x = std::ldexp(normal(random), exponent);
    if (trial % 3 == 0) row[random() % row.size()] *= 1000;  // the others are small numbers then
    expect_as_written(row, GetParam());
  }
}

// Every number of the dtype, and what lies at and right beside the middle of two.
TEST_P(RowScale, TiesAsWriteKv) {
  std::vector<float> all;
  for (int bits = 0; bits < 256; ++bits) {
    const float x = visit_quantised_dtype(GetParam(), [&](auto number) {
      number.bits = static_cast<decltype(number.bits)>(bits);
      return to_float(number);
    });
    if (!std::isnan(x) && std::fabs(x) <= largest_of(GetParam())) all.push_back(x);
  }
  std::sort(all.begin(), all.end());
  std::vector<float> row = all;
  for (std::size_t i = 1; i < all.size(); ++i) {
    const float middle = (all[i - 1] + all[i]) / 2;
    row.insert(row.end(), {middle, std::nextafterf(middle, 1e9f), std::nextafterf(middle, -1e9f)});
  }
  const Row result = sealed(row, GetParam());
  ASSERT_EQ(result.scale, 1.0f);
  for (std::size_t i = 0; i < row.size(); ++i) {
    visit_cache_dtype(GetParam(), [&](auto type) {
      using T = decltype(type);
      const T number = from_float<T>(row[i]);
      ASSERT_EQ(std::memcmp(&result.numbers[i], &number, 1), 0) << row[i];
    });
  }
  expect_as_written(row, GetParam());
}

TEST_P(RowScale, RowsAtTheEndsOfFloatsAsWriteKv) {
  constexpr float kMax = std::numeric_limits<float>::max();
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  expect_as_written({0, -0.0f, 0}, GetParam());
  expect_as_written({kMax, -kMax, 1, kMax / 3}, GetParam());
  expect_as_written({kTiny, -kTiny, 5 * kTiny}, GetParam());
  expect_as_written({std::numeric_limits<float>::min(), 0x1p-120f}, GetParam());
  expect_as_written({-3}, GetParam());
}

std::vector<float> opened(const Row& row, DType dtype) {
  std::vector<float> floats(row.numbers.size());
  open_row(row.numbers.data(), dtype, row.scale, std::ssize(floats), floats.data());
  return floats;
}

// At the end of float32's range a scale that is rounded up is too large for its largest number.
TEST_P(RowScale, WhatIsReadBackIsFinite) {
  constexpr float kMax = std::numeric_limits<float>::max();
  float most = kMax;
  for (int step = 0; step < 500; ++step, most = std::nextafter(most, 0.0f)) {
    const std::vector<float> row = {most, -most, most / 3, 1};
    const Row result = sealed(row, GetParam());
    const std::vector<float> floats = opened(result, GetParam());
    for (std::size_t i = 0; i < row.size(); ++i) {
      ASSERT_LE(std::fabs(floats[i] - row[i]), kMax / 20) << most;  // not of an infinity
    }
    ASSERT_EQ(std::fabs(floats[0]), std::fabs(floats[1]));
    expect_as_written(row, GetParam());
  }
}

TEST_P(RowScale, WhatIsReadBackIsFiniteWhateverTheScale) {
  constexpr float kMax = std::numeric_limits<float>::max();
  std::mt19937 random(2);
  std::uniform_real_distribution<float> exponent(112, 128);
  for (int trial = 0; trial < 500; ++trial) {
    const float scale = std::min(kMax, std::exp2(exponent(random)));
    const std::vector<float> row = {kMax, -kMax, std::exp2(exponent(random)) / 2};
    for (const std::string_view name : available_instruction_sets()) {
      const WithInstructionSet on_it(name);
      for (const float x : opened(written(row, GetParam(), scale), GetParam())) {
        ASSERT_TRUE(std::isfinite(x)) << name << ", scale " << scale;
      }
    }
  }
}

// Attention refuses such a scale.
TEST_P(RowScale, OfARowThatIsNotFiniteIsNoNumber) {
  EXPECT_FALSE(std::isfinite(sealed({1, NAN, 2}, GetParam()).scale));
  EXPECT_FALSE(std::isfinite(sealed({1, -INFINITY, 2}, GetParam()).scale));
}

TEST_P(RowScale, OpenedRowsAreNumbersTimesTheirScale) {
  const std::vector<float> row = {1, -0.25f, 0.003f, 0, 0.5f};
  const Row result = sealed(row, GetParam());
  std::vector<float> opened(row.size());
  open_row(result.numbers.data(), GetParam(), result.scale, 5, opened.data());
  EXPECT_EQ(opened[0], 1.0f);
  EXPECT_EQ(opened[3], 0.0f);
  for (std::size_t i = 0; i < row.size(); ++i) EXPECT_NEAR(opened[i], row[i], 0.01f) << i;
}

}  // namespace
}  // namespace quire::testing
