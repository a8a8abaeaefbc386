#include "quire/ops/attention/merge_states.h"

#include <gtest/gtest.h>

#include <vector>

#include "quire/base/check.h"
#include "support/attention_problem.h"

namespace quire::testing {
namespace {

TEST(MergeStates, AgreesWithTheFormulaInFloat64) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 30);
  for (const DType dtype : kDTypes) {
    constexpr std::int64_t kParts = 3, kTokens = 4, kHeads = 2, kDim = 5;
    Array outs(dtype, {kParts, kTokens, kHeads, kDim});
    Array lses(DType::float32, {kParts, kTokens, kHeads});
    Array out(DType::float32, {kTokens, kHeads, kDim});
    std::vector<float> lse(kTokens * kHeads);
    for (std::int64_t i = 0; i < outs.size(); ++i) outs.set(i, normal(random));
    for (std::int64_t i = 0; i < lses.size(); ++i) lses.set(i, normal(random));
    lses.set(3, -kInfinity);
    merge_states({outs.view(), lses.view(), out.view(), lse.data()});
    for (std::int64_t row = 0; row < kTokens * kHeads; ++row) {
      double total = 0;
      for (std::int64_t p = 0; p < kParts; ++p) {
        total += std::exp(lses.get(p * kTokens * kHeads + row));
      }
      EXPECT_NEAR(lse[row], std::log(total), 1e-5 * std::abs(std::log(total)));
      for (std::int64_t d = 0; d < kDim; ++d) {
        double expected = 0;
        for (std::int64_t p = 0; p < kParts; ++p) {
          const std::int64_t at = p * kTokens * kHeads + row;
          expected += std::exp(lses.get(at)) / total * outs.get(at * kDim + d);
        }
        EXPECT_NEAR(out.get(row * kDim + d), expected, 1e-5 * (1 + std::abs(expected)));
      }
    }
  }
}

TEST(MergeStates, HugeSumsDoNotOverflow) {
  Array outs(DType::float32, {2, 1, 1, 1});
  Array lses(DType::float32, {2, 1, 1});
  Array out(DType::float32, {1, 1, 1});
  float lse = 0;
  outs.set(0, 1);
  outs.set(1, 3);
  lses.set(0, 5e5f);
  lses.set(1, 5e5f);
  merge_states({outs.view(), lses.view(), out.view(), &lse});
  EXPECT_EQ(out.get(0), 2.0);
  EXPECT_EQ(lse, static_cast<float>(5e5 + std::log(2.0)));
}

TEST(MergeStates, ManyEqualStatesAreAsOne) {
  constexpr std::int64_t kParts = 1 << 18, kDim = 3;
  Array outs(DType::float32, {kParts, 1, 1, kDim});
  Array lses(DType::float32, {kParts, 1, 1});
  Array out(DType::float32, {1, 1, kDim});
  float lse = 0;
  for (std::int64_t i = 0; i < outs.size(); ++i) outs.set(i, 0.1f + 0.3f * (i % kDim));
  for (std::int64_t i = 0; i < kParts; ++i) lses.set(i, 0.7f);
  merge_states({outs.view(), lses.view(), out.view(), &lse});
  for (std::int64_t d = 0; d < kDim; ++d) EXPECT_FLOAT_EQ(out.get(d), outs.get(d));
  EXPECT_FLOAT_EQ(lse, 0.7f + std::log(float{kParts}));
}

TEST(MergeStates, RefusesShapesThatDoNotFit) {
  Array outs(DType::float32, {2, 3, 4, 5});
  Array lses(DType::float32, {2, 3, 3});
  Array out(DType::float32, {3, 4, 5});
  EXPECT_THROW(merge_states({outs.view(), lses.view(), out.view(), nullptr}), ValueError);
}

}  // namespace
}  // namespace quire::testing
