// Packed weights: every number is where it is looked for, and near the one that was packed.
#include "quire/ops/linear/pack_weight.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "quire/base/check.h"
#include "quire/ops/linear/affine_numbers.h"
#include "support/linear_problem.h"

namespace quire::testing {
namespace {

TEST(PackedLayout, GivesEveryNumberAPlaceOfItsOwn) {
  for (const auto& [format, group_size] : {std::pair<DType, std::int64_t>{DType::float32, 0},
                                           {DType::float16, 0},
                                           {DType::bfloat16, 0},
                                           {DType::int8, 0},
                                           {DType::int8, 32},
                                           {DType::int4, 64}}) {
    const PackedLayout layout{format, 40, 150, group_size};
    std::set<std::int64_t> places;  // in bits
    const auto bits = static_cast<std::int64_t>(size_of(format)) * 8 / numbers_of(format);
    const auto take = [&](std::int64_t place) {
      EXPECT_LE(place + bits, layout.panel_bytes() * 8);
      EXPECT_EQ(place % bits, 0);
      EXPECT_TRUE(places.insert(place).second) << name_of(format) << " " << place;
    };
    for (std::int64_t n = 0; n < kPanelColumns; ++n) {
      for (std::int64_t k = 0; k < layout.depth(); ++k) {
        take(layout.offset(n, k) * 8 + (format == DType::int4 ? PackedLayout::shift(k) : 0));
      }
    }
    for (std::int64_t k = 0; group_size != 0 && k < layout.depth(); k += group_size) {
      for (std::int64_t bit = 0; bit < kGroupScaleBytes * 8; bit += bits) {
        take(layout.scales_offset(k) * 8 + bit);
      }
    }
    EXPECT_EQ(layout.bytes() - layout.panels() * layout.panel_bytes(),
              format == DType::int8 && group_size == 0 ? 64 * 4 : 0);
  }
}

TEST(PackWeight, RoundsFloatsToNearest) {
  for (const DType w_dtype : kDTypes) {
    for (const DType format : kDTypes) {
      LinearProblem problem(1, 45, 77, DType::float32, w_dtype);
      const auto weight = problem.packed(format);
      for (std::int64_t i = 0; i < problem.w.size(); ++i) {
        const double expected = visit_dtype(format, [&](auto type) -> double {
          return to_float(from_float<decltype(type)>(static_cast<float>(problem.w.get(i))));
        });
        ASSERT_EQ(weight->at(i / 77, i % 77), expected);
      }
    }
  }
}

TEST(PackWeight, QuantisesToTheNearestStep) {
  for (const DType w_dtype : kDTypes) {
    LinearProblem problem(1, 45, 200, DType::float32, w_dtype);
    for (std::int64_t k = 0; k < 200; ++k) problem.w.set(3 * 200 + k, 0);
    const auto int8 = problem.packed(DType::int8);
    for (std::int64_t n = 0; n < 45; ++n) {
      double largest = 0;
      for (std::int64_t k = 0; k < 200; ++k) {
        largest = std::max(largest, std::abs(problem.w.get(n * 200 + k)));
      }
      for (std::int64_t k = 0; k < 200; ++k) {
        ASSERT_NEAR(int8->at(n, k), problem.w.get(n * 200 + k), largest / 127 * 0.50001);
      }
    }
    for (const std::int64_t group_size : {32, 64, 128}) {
      const auto int4 = pack_weight(problem.w.view(), {DType::int4, group_size}, 2);
      for (std::int64_t n = 0; n < 45; ++n) {
        for (std::int64_t k0 = 0; k0 < 200; k0 += group_size) {
          float group[128];
          const std::int64_t count = std::min<std::int64_t>(group_size, 200 - k0);
          for (std::int64_t i = 0; i < count; ++i) {
            group[i] = static_cast<float>(problem.w.get(n * 200 + k0 + i));
          }
          const AffineGrid grid = affine_grid(group, count);
          // the edge that is not exact may be cut off by as much as the scale was stretched
          const double rounding = w_dtype == DType::float32 ? 1e-6 : 0x1p-7;
          for (std::int64_t i = 0; i < count; ++i) {
            ASSERT_NEAR(int4->at(n, k0 + i), group[i],
                        1.01 * std::abs(grid.scale) + rounding * std::abs(15 * grid.scale));
          }
        }
      }
    }
  }
}

TEST(PackWeight, IsTheSameOnThreads) {
  LinearProblem problem(1, 700, 300, DType::float32, DType::float32);
  for (const DType format : {DType::bfloat16, DType::int8, DType::int4}) {
    const auto one = pack_weight(problem.w.view(), {format, std::nullopt}, 1);
    const auto three = pack_weight(problem.w.view(), {format, std::nullopt}, 3);
    EXPECT_EQ(std::memcmp(one->panel(0), three->panel(0), static_cast<std::size_t>(one->nbytes())),
              0);
  }
}

// Rows that are given panel by panel are packed as an array of them is, whatever was in the memory
// that they are written to.
TEST(PackWeight, RowsThatAreGivenArePackedAsAnArrayIs) {
  for (const auto& [n, k] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {31, 33}, {64, 64}, {700, 300}}) {
    LinearProblem problem(1, n, k, DType::float32, DType::float32);
    for (const DType format :
         {DType::float32, DType::float16, DType::bfloat16, DType::int8, DType::int4}) {
      for (const int threads : {1, 3}) {
        std::vector<std::atomic<int>> given(static_cast<std::size_t>(n));
        const FloatRows source{n, k, [&](std::int64_t begin, std::int64_t end, float* rows) {
                                 ASSERT_LE(end - begin, kPanelColumns);
                                 std::memcpy(rows, problem.w.view().at(begin),
                                             (end - begin) * k * 4);
                                 for (; begin < end; ++begin) ++given[begin];
                               }};
        const auto weight = pack_weight(source, {format, std::nullopt}, threads);
        const auto expected = problem.packed(format);
        ASSERT_EQ(weight->nbytes(), expected->nbytes());
        EXPECT_EQ(std::memcmp(weight->panel(0), expected->panel(0),
                              static_cast<std::size_t>(weight->nbytes())),
                  0)
            << name_of(format) << " " << n << " " << k;
        for (const auto& times : given) EXPECT_EQ(times, 1);
      }
    }
  }
}

TEST(PackWeight, RefusesRowsThatItCannotPack) {
  const auto refusal = [](const FloatRows& source) -> std::string {
    try {
      pack_weight(source, {DType::int8, std::nullopt}, 2);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing thrown";
  };
  const auto none = [](std::int64_t, std::int64_t, float*) { FAIL() << "asked for rows"; };
  EXPECT_EQ(refusal({0, 4, none}),
            "pack_weight: source: got [0, 4], expected one row and one column or more");
  EXPECT_EQ(refusal({4, 0, none}),
            "pack_weight: source: got [4, 0], expected one row and one column or more");
  EXPECT_EQ(refusal({40, 2,
                     [](std::int64_t begin, std::int64_t end, float* rows) {
                       std::fill(rows, rows + (end - begin) * 2, 1.0f);
                       if (begin == 32) rows[3] = kInfinity;
                     }}),
            "pack_weight: w: got inf at [33, 1], expected finite numbers, as int8 has no others");
  EXPECT_EQ(refusal({400, 2, [](std::int64_t, std::int64_t, float*) { throw Error("no file"); }}),
            "no file");
}

TEST(PackWeight, RefusesWhatItCannotPack) {
  LinearProblem problem(1, 4, 8, DType::float32, DType::float32);
  const ArrayView w = problem.w.view();
  EXPECT_THROW(pack_weight(w, {DType::float8_e4m3fn, std::nullopt}, 1), ValueError);
  EXPECT_THROW(pack_weight(w, {DType::int4, 48}, 1), ValueError);
  EXPECT_THROW(pack_weight(w, {DType::int8, 64}, 1), ValueError);
  ArrayView empty = w;
  empty.shape[0] = 0;
  EXPECT_THROW(pack_weight(empty, {DType::int8, std::nullopt}, 1), ValueError);
  problem.w.set(2 * 8 + 5, kInfinity);
  EXPECT_NO_THROW(pack_weight(w, {DType::float16, std::nullopt}, 1));
  try {
    pack_weight(w, {DType::int4, std::nullopt}, 1);
    FAIL() << "took an infinity";
  } catch (const ValueError& error) {
    EXPECT_STREQ(
        error.what(),
        "pack_weight: w: got inf at [2, 5], expected finite numbers, as int4 has no others");
  }
}

}  // namespace
}  // namespace quire::testing
