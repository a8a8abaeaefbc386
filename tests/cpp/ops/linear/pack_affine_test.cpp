// Affine numbers that are packed as they are: every one is where it is looked for, exactly.
#include "quire/ops/linear/pack_affine.h"

#include <cstring>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "support/affine_problem.h"
#include "support/linear_problem.h"

namespace quire::testing {
namespace {

constexpr DType kFormats[] = {DType::int4, DType::int8};

TEST(PackAffine, KeepsEveryNumber) {
  for (const DType format : kFormats) {
    for (const auto& [n, k] :
         {std::pair<std::int64_t, std::int64_t>{1, 32}, {33, 96}, {700, 320}}) {
      const AffineProblem problem(n, k, format);
      const auto weight = pack_affine(problem.source(), 3);
      EXPECT_EQ(weight->format(), format);
      EXPECT_EQ(weight->group_size(), 32);
      EXPECT_EQ(weight->scales(), nullptr);
      std::vector<float> row(k);
      for (std::int64_t i = 0; i < n * k; ++i) {
        const auto group = static_cast<std::size_t>(i / 32);
        const double expected = static_cast<double>(problem.scales[group]) * problem.numbers[i] +
                                static_cast<double>(problem.offsets[group]);
        ASSERT_EQ(weight->at(i / k, i % k), expected) << i;
        if (i % k == 0) weight->unpack_row(i / k, row.data());
        ASSERT_EQ(row[i % k], static_cast<float>(expected)) << i;
      }
      const auto alone = pack_affine(problem.source(), 1);
      EXPECT_EQ(std::memcmp(alone->panel(0), weight->panel(0),
                            static_cast<std::size_t>(weight->nbytes())),
                0);
    }
  }
}

// What pack_weight has made, taken apart and packed again, is the same in every bit.
TEST(PackAffine, LaysNumbersAsPackWeightDoes) {
  LinearProblem floats(1, 45, 128, DType::float32, DType::float32);
  const auto expected = pack_weight(floats.w.view(), {DType::int4, 32}, 1);
  AffineProblem problem(45, 128, DType::int4);
  for (std::int64_t i = 0; i < 45 * 128; ++i) {
    const std::int64_t column = i / 128 % kPanelColumns, k = i % 128;
    const std::byte* const panel = expected->panel(i / 128 / kPanelColumns);
    const PackedLayout& layout = expected->layout();
    std::uint32_t bits;
    std::memcpy(&bits, panel + layout.offset(column, k), 4);
    problem.numbers[i] = static_cast<std::int8_t>(bits >> PackedLayout::shift(k) & 15u);
    const std::byte* const scales = panel + layout.scales_offset(k);
    std::memcpy(&problem.scales[i / 32], scales + column * 4, 4);
    std::memcpy(&problem.offsets[i / 32], scales + (kPanelColumns + column) * 4, 4);
  }
  const auto weight = pack_affine(problem.source(), 2);
  ASSERT_EQ(weight->nbytes(), expected->nbytes());
  EXPECT_EQ(
      std::memcmp(weight->panel(0), expected->panel(0), static_cast<std::size_t>(weight->nbytes())),
      0);
}

TEST(PackAffine, RefusesOtherNumbers) {
  const auto refusal = [](const AffineSource& source) -> std::string {
    try {
      pack_affine(source, 2);
    } catch (const ValueError& error) {
      return error.what();
    }
    return "nothing thrown";
  };
  AffineProblem problem(40, 64, DType::int4);
  EXPECT_EQ(refusal(problem.source()), "nothing thrown");
  problem.numbers[33 * 64 + 5] = 16;
  EXPECT_EQ(refusal(problem.source()), "pack_affine: source: got 16 at [33, 5], expected 0 to 15");
  problem = AffineProblem(40, 64, DType::int4);
  problem.scales[34 * 2 + 1] = kInfinity;
  EXPECT_EQ(refusal(problem.source()),
            "pack_affine: source: got the scale or offset inf of row 34, group 1, expected finite "
            "numbers");
  problem = AffineProblem(40, 64, DType::int4);
  problem.offsets[0] = -kInfinity;
  EXPECT_NE(refusal(problem.source()).find("-inf of row 0, group 0"), std::string::npos);
  problem = AffineProblem(40, 64, DType::int4);
  problem.numbers[7] = -1;
  EXPECT_EQ(refusal(problem.source()), "pack_affine: source: got -1 at [0, 7], expected 0 to 15");
  AffineSource source = problem.source();
  source.format = DType::bfloat16;
  EXPECT_EQ(refusal(source), "pack_affine: source: got format bfloat16, expected int4 or int8");
  source.num_columns = 48;
  EXPECT_EQ(refusal(source), "pack_affine: source: got 48 columns, expected whole groups of 32");
  source.num_columns = 0;
  EXPECT_EQ(refusal(source),
            "pack_affine: source: got [40, 0], expected one row and one column or more");
}

}  // namespace
}  // namespace quire::testing
