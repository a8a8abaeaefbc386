#include "quire/ops/attention/merge_states.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

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
    Array lse(DType::float32, {kTokens, kHeads});
    for (std::int64_t i = 0; i < outs.size(); ++i) outs.set(i, normal(random));
    for (std::int64_t i = 0; i < lses.size(); ++i) lses.set(i, normal(random));
    lses.set(3, -kInfinity);
    merge_states({outs.view(), lses.view(), out.view(), lse.view()});
    for (std::int64_t row = 0; row < kTokens * kHeads; ++row) {
      double total = 0;
      for (std::int64_t p = 0; p < kParts; ++p) {
        total += std::exp(lses.get(p * kTokens * kHeads + row));
      }
      EXPECT_NEAR(lse.get(row), std::log(total), 1e-5 * std::abs(std::log(total)));
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
  Array out(DType::float32, {1, 1, 1}), lse(DType::float32, {1, 1});
  outs.set(0, 1);
  outs.set(1, 3);
  lses.set(0, 5e5f);
  lses.set(1, 5e5f);
  merge_states({outs.view(), lses.view(), out.view(), lse.view()});
  EXPECT_EQ(out.get(0), 2.0);
  EXPECT_EQ(lse.get(0), static_cast<float>(5e5 + std::log(2.0)));
}

TEST(MergeStates, ManyEqualStatesAreAsOne) {
  constexpr std::int64_t kParts = 1 << 18, kDim = 3;
  Array outs(DType::float32, {kParts, 1, 1, kDim});
  Array lses(DType::float32, {kParts, 1, 1});
  Array out(DType::float32, {1, 1, kDim}), lse(DType::float32, {1, 1});
  for (std::int64_t i = 0; i < outs.size(); ++i) outs.set(i, 0.1f + 0.3f * (i % kDim));
  for (std::int64_t i = 0; i < kParts; ++i) lses.set(i, 0.7f);
  merge_states({outs.view(), lses.view(), out.view(), lse.view()});
  for (std::int64_t d = 0; d < kDim; ++d) EXPECT_FLOAT_EQ(out.get(d), outs.get(d));
  EXPECT_FLOAT_EQ(lse.get(0), 0.7f + std::log(float{kParts}));
}

// One row of three parts by the formula, in float64; infinite parts are nothing.
struct Merged {
  double out = 0, lse = -kInfinity;
};
Merged merged_by_formula(const double (&outs)[3], const double (&lses)[3]) {
  double total = 0, sum = 0;
  for (int i = 0; i < 3; ++i) {
    if (std::isinf(lses[i])) continue;
    total += std::exp(lses[i]);
    sum += std::exp(lses[i]) * outs[i];
  }
  return total == 0 ? Merged{} : Merged{sum / total, std::log(total)};
}

TEST(MergeStates, PartsOfInfiniteLseAreNothingWhateverTheyHold) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const double lse_choices[] = {0.5, -2, kInfinity, -kInfinity};
  for (int choice = 0; choice < 64; ++choice) {
    Array outs(DType::float32, {3, 1}), lses(DType::float32, {3});
    Array out(DType::float32, {1}), lse(DType::float32, {});
    double values[3], parts[3];
    for (int i = 0; i < 3; ++i) {
      parts[i] = lse_choices[choice >> (2 * i) & 3];
      values[i] = std::isinf(parts[i]) ? kNan : i + 1;
      outs.set(i, static_cast<float>(values[i]));
      lses.set(i, static_cast<float>(parts[i]));
    }
    merge_states({outs.view(), lses.view(), out.view(), lse.view()});
    const Merged expected = merged_by_formula(values, parts);
    EXPECT_NEAR(out.get(0), expected.out, 1e-6) << choice;
    if (std::isinf(expected.lse)) {
      EXPECT_EQ(lse.get(0), expected.lse) << choice;
    } else {
      EXPECT_NEAR(lse.get(0), expected.lse, 1e-6) << choice;
    }
  }
}

TEST(MergeStates, ANanOfAPartWithKeysIsNotHidden) {
  Array outs(DType::float32, {2, 1}), lses(DType::float32, {2});
  Array out(DType::float32, {1}), lse(DType::float32, {});
  lses.set(0, std::numeric_limits<float>::quiet_NaN());
  lses.set(1, 1);
  merge_states({outs.view(), lses.view(), out.view(), lse.view()});
  EXPECT_TRUE(std::isnan(out.get(0)));
  EXPECT_TRUE(std::isnan(lse.get(0)));
}

// Rows of two axes, of one, and of three are the same numbers, whatever the strides.
TEST(MergeStates, RowsMayHaveAnyAxesAndStrides) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 3);
  constexpr std::int64_t kParts = 2, kRows = 12, kDim = 3;
  Array outs(DType::float32, {kParts, kRows, kDim}), lses(DType::float32, {kParts, kRows});
  for (std::int64_t i = 0; i < outs.size(); ++i) outs.set(i, normal(random));
  for (std::int64_t i = 0; i < lses.size(); ++i) lses.set(i, normal(random));
  Array out(DType::float32, {kRows, kDim}), lse(DType::float32, {kRows});
  merge_states({outs.view(), lses.view(), out.view(), lse.view()});

  Array deep_out(DType::float32, {2, 3, 2, kDim}), deep_lse(DType::float32, {kRows, 2});
  ArrayView deep_outs = outs.view(), deep_lses = lses.view(), every_other = deep_lse.view();
  deep_outs.ndim = 5;
  deep_outs.shape = {kParts, 2, 3, 2, kDim};
  deep_outs.strides = {4 * kRows * kDim, 4 * 6 * kDim, 4 * 2 * kDim, 4 * kDim, 4};
  deep_lses.ndim = 4;
  deep_lses.shape = {kParts, 2, 3, 2};
  deep_lses.strides = {4 * kRows, 4 * 6, 4 * 2, 4};
  every_other.ndim = 3;
  every_other.shape = {2, 3, 2};
  every_other.strides = {8 * 6, 8 * 2, 8};
  for (std::int64_t i = 0; i < deep_lse.size(); ++i) deep_lse.set(i, 77);
  merge_states({deep_outs, deep_lses, deep_out.view(), every_other});
  for (std::int64_t row = 0; row < kRows; ++row) {
    EXPECT_EQ(deep_lse.get(2 * row), lse.get(row));
    EXPECT_EQ(deep_lse.get(2 * row + 1), 77);
    for (std::int64_t d = 0; d < kDim; ++d) {
      EXPECT_EQ(deep_out.get(row * kDim + d), out.get(row * kDim + d));
    }
  }
}

TEST(MergeStates, RefusesShapesThatDoNotFit) {
  Array outs(DType::float32, {2, 3, 4, 5});
  Array lses(DType::float32, {2, 3, 3});
  Array out(DType::float32, {3, 4, 5}), lse(DType::float32, {3, 4});
  EXPECT_THROW(merge_states({outs.view(), lses.view(), out.view(), lse.view()}), ValueError);
}

}  // namespace
}  // namespace quire::testing
