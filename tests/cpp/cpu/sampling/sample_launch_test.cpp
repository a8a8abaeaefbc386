// Tokens on all kernels of this machine against float64 with the same random numbers.
#include "quire/cpu/sampling/sample_launch.h"

#include <gtest/gtest.h>

#include <random>

#include "quire/base/check.h"
#include "support/attention_problem.h"
#include "support/each_operator_set.h"

namespace quire::testing {
namespace {

class Sample : public OnOperatorSet {};

INSTANTIATE_TEST_SUITE_P(All, Sample, ::testing::ValuesIn(operator_sets()),
                         [](const auto& info) { return std::string(info.param->operators->name); });

// Where a random number lies within rounding of a border another token may be right: of 400 rows
// with some 100 tokens left none does so with these seeds.
TEST_P(Sample, IsThatOfFloat64) {
  constexpr std::int64_t kRows = 400, kTokens = 1500;
  for (const DType dtype : kDTypes) {
    Array logits(dtype, {kRows, kTokens});
    std::mt19937 random(7);
    std::normal_distribution<float> numbers(0, 4);
    for (std::int64_t i = 0; i < logits.size(); ++i) logits.set(i, numbers(random));
    std::vector<SampleOptions> options(kRows);
    for (std::int64_t row = 0; row < kRows; ++row) {
      SampleOptions& of_row = options[static_cast<std::size_t>(row)];
      of_row.seed = row % 3;
      of_row.position = row;
      of_row.temperature = static_cast<double>(row % 4) * 0.5;
      of_row.top_k = row % 2 == 0 ? 0 : row;
      of_row.top_p = row % 5 == 0 ? 1 : 0.9;
      of_row.min_p = row % 7 == 0 ? 0.1 : 0;
      of_row.frequency_penalty = 0.5;
    }
    std::vector<std::int32_t> ids(kRows * 3);
    for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random() % kTokens) - 1;
    std::vector<std::int64_t> tokens(kRows);
    SampleArgs args;
    args.logits = logits.view();
    args.options = options;
    args.output_ids = contiguous_index_view(ids.data(), {kRows, 3});
    args.out = tokens;
    sample(args, on(2));
    EXPECT_EQ(tokens, reference_sample(args));
  }
}

TEST_P(Sample, RefusesRowsThatHaveNoToken) {
  Array logits(DType::float32, {3, 70});
  std::vector<SampleOptions> options(3);
  std::vector<std::int64_t> tokens = {-5, -5, -5};
  SampleArgs args;
  args.logits = logits.view();
  args.options = options;
  args.out = tokens;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY}) {
    logits.set(70 + 69, bad);
    EXPECT_THROW(sample(args, on(1)), ValueError);
  }
  for (std::int64_t i = 0; i < 70; ++i) logits.set(70 + i, -INFINITY);
  EXPECT_THROW(sample(args, on(1)), ValueError);
  EXPECT_EQ(tokens, (std::vector<std::int64_t>{-5, -5, -5}));
}

TEST(SampleLaunch, RefusesOptionsAndResultsOfAnotherSize) {
  Array logits(DType::float32, {3, 5});
  std::vector<SampleOptions> options(3);
  std::vector<std::int64_t> tokens(3, -5);
  SampleArgs args;
  args.logits = logits.view();
  args.options = std::span(options).first(2);
  args.out = tokens;
  EXPECT_THROW(sample(args, default_execution(1)), ValueError);
  args.options = options;
  args.out = std::span(tokens).first(2);
  EXPECT_THROW(sample(args, default_execution(1)), ValueError);
  EXPECT_EQ(tokens, std::vector<std::int64_t>(3, -5));
}

}  // namespace
}  // namespace quire::testing
