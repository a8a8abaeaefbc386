// write_kv on every instruction set: conversions bit for bit as from_float, rows in their slots.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "quire/base/check.h"
#include "quire/cpu/operations.h"
#include "support/attention_problem.h"
#include "support/with_instruction_set.h"

namespace quire::testing {
namespace {

// Elements of a float32 array rounded by the library's own scalar conversion.
void expect_rounded(const Array& from, const Array& to) {
  for (std::int64_t i = 0; i < from.size(); ++i) {
    Array expected(to.dtype, {1});
    expected.set(0, static_cast<float>(from.get(i)));
    if (std::isnan(from.get(i))) {
      ASSERT_TRUE(std::isnan(to.get(i))) << i;
    } else {
      ASSERT_EQ(std::memcmp(expected.bytes.data(), to.bytes.data() + i * size_of(to.dtype),
                            size_of(to.dtype)),
                0)
          << from.get(i);
    }
  }
}

TEST(WriteKv, RoundsAsFromFloatOnEveryInstructionSet) {
  std::mt19937 random(1);
  for (const std::string_view name : available_instruction_sets()) {
    const WithInstructionSet on_it(name);
    for (const DType dtype : kDTypes) {
      for (const std::int64_t dim : {1, 3, 16, 31, 64, 100}) {
        constexpr std::int64_t kRows = 200;
        Array k(DType::float32, {kRows, 1, dim});
        for (std::int64_t i = 0; i < k.size(); ++i)
          k.set(i, std::bit_cast<float>(static_cast<std::uint32_t>(random())));
        Array v = k;
        Array k_cache(dtype, {kRows, 1, 1, dim}), v_cache(dtype, {kRows, 1, 1, dim});
        std::vector<std::int64_t> slots(kRows);
        for (std::int64_t i = 0; i < kRows; ++i) slots[i] = i;
        write_kv({k.view(), v.view(), k_cache.view(), v_cache.view(),
                  contiguous_index_view(slots.data(), {kRows}), Layout::NHD});
        expect_rounded(k, k_cache);
        expect_rounded(v, v_cache);
      }
    }
  }
}

// Numbers of a row divided by `scale`, as the library's own scalar conversion rounds them.
template <class T>
void expect_quantised(const float* row, std::int64_t dim, float scale, const Array& cache,
                      std::int64_t at) {
  for (std::int64_t d = 0; d < dim; ++d) {
    const auto expected = from_float<T>(row[d] / scale);
    ASSERT_EQ(std::memcmp(&expected, cache.bytes.data() + at + d, 1), 0)
        << row[d] << " / " << scale;
  }
}

TEST(WriteKv, QuantisesAsFromFloatOnEveryInstructionSet) {
  std::mt19937 random(2);
  std::uniform_int_distribution<std::uint32_t> bits(0, 0x7f7fffffu);
  for (const std::string_view name : available_instruction_sets()) {
    const WithInstructionSet on_it(name);
    for (const DType dtype : kQuantisedDTypes) {
      for (const std::int64_t dim : {1, 3, 16, 31, 64, 100}) {
        constexpr std::int64_t kRows = 300;
        Array k(DType::float32, {kRows, 1, dim});
        for (std::int64_t i = 0; i < k.size(); ++i) {
          const float magnitude = std::bit_cast<float>(bits(random));
          // of any size, and of those that a number of the dtype has
          const float value =
              i % 2 == 0 ? magnitude
                         : std::ldexp(1 + magnitude / 3.4e38f, static_cast<int>(i % 20) - 11);
          k.set(i, random() % 2 == 0 ? value : -value);
        }
        Array v = k;
        Array k_cache(dtype, {kRows, 1, 1, dim}), v_cache = k_cache;
        std::vector<std::int64_t> slots(kRows);
        for (std::int64_t i = 0; i < kRows; ++i) slots[i] = i;
        std::vector<float> scales(kRows);
        float fixed = 0.5f;
        write_kv({k.view(), v.view(), k_cache.view(), v_cache.view(),
                  contiguous_index_view(slots.data(), {kRows}), Layout::NHD,
                  contiguous_view(scales.data(), DType::float32, {kRows, 1, 1}),
                  contiguous_view(&fixed, DType::float32, {})});
        for (std::int64_t row = 0; row < kRows; ++row) {
          const float* const from = reinterpret_cast<const float*>(k.bytes.data()) + row * dim;
          float largest = 0;
          for (std::int64_t d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(from[d]));
          ASSERT_EQ(scales[row],
                    std::max(largest / largest_of(dtype), std::numeric_limits<float>::min()));
          visit_cache_dtype(dtype, [&](auto type) {
            if constexpr (sizeof(type) == 1) {
              expect_quantised<decltype(type)>(from, dim, scales[row], k_cache, row * dim);
              expect_quantised<decltype(type)>(from, dim, fixed, v_cache, row * dim);
            }
          });
        }
      }
    }
  }
}

TEST(WriteKv, LastRowOfASlotWinsAndSkippedRowsAreSkipped) {
  Array k(DType::float32, {3, 2, 4});
  for (std::int64_t i = 0; i < k.size(); ++i) k.set(i, static_cast<float>(i));
  Array v = k;
  for (const Layout layout : {Layout::NHD, Layout::HND}) {
    Array k_cache(DType::float32, layout == Layout::NHD ? std::vector<std::int64_t>{2, 3, 2, 4}
                                                        : std::vector<std::int64_t>{2, 2, 3, 4});
    Array v_cache = k_cache;
    const std::int32_t slots[] = {4, -1, 4};
    write_kv({k.view(), v.view(), k_cache.view(), v_cache.view(), contiguous_index_view(slots, {3}),
              layout});
    double sum = 0;
    for (std::int64_t i = 0; i < k_cache.size(); ++i) sum += k_cache.get(i);
    EXPECT_EQ(sum, 16 + 17 + 18 + 19 + 20 + 21 + 22 + 23);
    const std::int64_t head = layout == Layout::NHD ? 4 : 12;
    const std::int64_t row = layout == Layout::NHD ? (1 * 3 + 1) * 8 : 1 * 24 + 1 * 4;
    EXPECT_EQ(k_cache.get(row), 16);
    EXPECT_EQ(v_cache.get(row + head), 20);
  }
}

TEST(WriteKv, AWrongSlotChangesNothing) {
  Array k(DType::float32, {2, 1, 4});
  for (std::int64_t i = 0; i < k.size(); ++i) k.set(i, 1);
  Array v = k;
  Array k_cache(DType::float32, {2, 3, 1, 4}), v_cache(DType::float32, {2, 3, 1, 4});
  for (const std::int64_t wrong : {std::int64_t{6}, std::int64_t{-2}}) {
    const std::int64_t slots[] = {0, wrong};
    EXPECT_THROW(write_kv({k.view(), v.view(), k_cache.view(), v_cache.view(),
                           contiguous_index_view(slots, {2}), Layout::NHD}),
                 IndexError);
    for (std::int64_t i = 0; i < k_cache.size(); ++i) ASSERT_EQ(k_cache.get(i), 0);
  }
}

}  // namespace
}  // namespace quire::testing
