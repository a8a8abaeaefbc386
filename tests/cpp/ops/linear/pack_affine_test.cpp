// Affine numbers that are packed as they are: every one is where it is looked for, exactly.
#include "quire/ops/linear/pack_affine.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "support/linear_problem.h"

namespace quire::testing {
namespace {

// Random affine numbers [n, k], and a source of them.
struct AffineProblem {
  AffineProblem(std::int64_t n, std::int64_t k)
      : num_rows(n), num_columns(k), codes(n * k), scales(n * k / 32), offsets(scales.size()) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (std::uint8_t& code : codes) code = random() % 16;
    for (float& scale : scales) scale = normal(random);
    for (float& offset : offsets) offset = normal(random);
  }

  AffineSource source() const {
    return {num_rows, num_columns,
            [this](std::int64_t begin, std::int64_t end, std::uint8_t* to_codes, float* to_scales,
                   float* to_offsets) {
              const auto copy = [&](const auto& from, auto* to, std::int64_t columns) {
                std::copy(from.begin() + begin * columns, from.begin() + end * columns, to);
              };
              copy(codes, to_codes, num_columns);
              copy(scales, to_scales, num_columns / 32);
              copy(offsets, to_offsets, num_columns / 32);
            }};
  }

  std::int64_t num_rows, num_columns;
  std::vector<std::uint8_t> codes;
  std::vector<float> scales, offsets;
};

TEST(PackAffine, KeepsEveryNumber) {
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{1, 32}, {33, 96}, {700, 320}}) {
    const AffineProblem problem(n, k);
    const auto weight = pack_affine(problem.source(), 3);
    EXPECT_EQ(weight->format(), DType::int4);
    EXPECT_EQ(weight->group_size(), 32);
    for (std::int64_t i = 0; i < n * k; ++i) {
      const auto group = static_cast<std::size_t>(i / 32);
      const double expected = static_cast<double>(problem.scales[group]) * problem.codes[i] +
                              static_cast<double>(problem.offsets[group]);
      ASSERT_EQ(weight->at(i / k, i % k), expected) << i;
    }
    const auto alone = pack_affine(problem.source(), 1);
    EXPECT_EQ(
        std::memcmp(alone->panel(0), weight->panel(0), static_cast<std::size_t>(weight->nbytes())),
        0);
  }
}

// What pack_weight has made, taken apart and packed again, is the same in every bit.
TEST(PackAffine, LaysNumbersAsPackWeightDoes) {
  LinearProblem floats(1, 45, 128, DType::float32, DType::float32);
  const auto expected = pack_weight(floats.w.view(), {DType::int4, 32}, 1);
  AffineProblem problem(45, 128);
  for (std::int64_t i = 0; i < 45 * 128; ++i) {
    const std::int64_t column = i / 128 % kPanelColumns, k = i % 128;
    const std::byte* const panel = expected->panel(i / 128 / kPanelColumns);
    const PackedLayout& layout = expected->layout();
    std::uint32_t bits;
    std::memcpy(&bits, panel + layout.offset(column, k), 4);
    problem.codes[i] = bits >> PackedLayout::shift(k) & 15u;
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
  AffineProblem problem(40, 64);
  EXPECT_EQ(refusal(problem.source()), "nothing thrown");
  problem.codes[33 * 64 + 5] = 16;
  EXPECT_EQ(refusal(problem.source()), "pack_affine: source: got 16 at [33, 5], expected 0 to 15");
  problem = AffineProblem(40, 64);
  problem.scales[34 * 2 + 1] = kInfinity;
  EXPECT_EQ(refusal(problem.source()),
            "pack_affine: source: got the scale or offset inf of row 34, group 1, expected finite "
            "numbers");
  problem = AffineProblem(40, 64);
  problem.offsets[0] = -kInfinity;
  EXPECT_NE(refusal(problem.source()).find("-inf of row 0, group 0"), std::string::npos);
  AffineSource source = problem.source();
  source.num_columns = 48;
  EXPECT_EQ(refusal(source), "pack_affine: source: got 48 columns, expected whole groups of 32");
  source.num_columns = 0;
  EXPECT_EQ(refusal(source),
            "pack_affine: source: got [40, 0], expected one row and one column or more");
}

}  // namespace
}  // namespace quire::testing
