// Convolutions and the gated delta rule on all kernels of this machine: near float64, and with bits
// that know nothing of cuts and threads.
#include "quire/cpu/recurrent/recurrent_launch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "support/attention_problem.h"
#include "support/each_operator_set.h"

namespace quire::testing {
namespace {

class Recurrent : public OnOperatorSet {};

INSTANTIATE_TEST_SUITE_P(All, Recurrent, ::testing::ValuesIn(operator_sets()),
                         [](const auto& info) { return std::string(info.param->operators->name); });

void expect_near(const Array& got, const std::vector<double>& expected) {
  const double rounding = got.dtype == DType::float32   ? 2e-6
                          : got.dtype == DType::float16 ? 0x1.1p-11
                                                        : 0x1.1p-8;
  ASSERT_EQ(got.size(), static_cast<std::int64_t>(expected.size()));
  for (std::int64_t i = 0; i < got.size(); ++i) {
    const double want = expected[static_cast<std::size_t>(i)];
    ASSERT_NEAR(got.get(i), want, rounding * std::abs(want) + 1e-5) << "element " << i;
  }
}

ArrayView tokens_of(Array& array, std::int64_t begin, std::int64_t end) {
  ArrayView view = array.view();
  view.data = view.at(begin);
  view.shape[0] = end - begin;
  return view;
}

struct Conv {
  explicit Conv(DType dtype)
      : x(normal(dtype, {90, 270}, 1)),
        weight(normal(dtype, {270, 4}, 2)),
        state(normal(dtype, {1, 270, 3}, 3)),
        bias(normal(dtype, {270}, 4)),
        out(dtype, {90, 270}) {}

  CausalConv1dArgs args(std::int64_t begin, std::int64_t end) {
    CausalConv1dArgs args;
    args.x = tokens_of(x, begin, end);
    args.weight = weight.view();
    args.state = state.view();
    args.bias = bias.view();
    args.out = tokens_of(out, begin, end);
    return args;
  }

  Array x, weight, state, bias, out;
};

struct Delta {
  explicit Delta(DType dtype)
      : q(normal(dtype, {90, 2, 40}, 1, 0.16f)),
        k(normal(dtype, {90, 2, 40}, 2, 0.16f)),
        v(normal(dtype, {90, 4, 70}, 3)),
        g(normal(DType::float32, {90, 4}, 4)),
        beta(normal(dtype, {90, 4}, 5)),
        state(normal(DType::float32, {1, 4, 40, 70}, 6)),
        out(dtype, {90, 4, 70}) {
    for (std::int64_t i = 0; i < g.size(); ++i) {
      g.set(i, -std::exp(static_cast<float>(g.get(i))));
      beta.set(i, 1 / (1 + std::exp(-static_cast<float>(beta.get(i)))));
    }
  }

  GatedDeltaRuleArgs args(std::int64_t begin, std::int64_t end) {
    GatedDeltaRuleArgs args;
    args.q = tokens_of(q, begin, end);
    args.k = tokens_of(k, begin, end);
    args.v = tokens_of(v, begin, end);
    args.g = tokens_of(g, begin, end);
    args.beta = tokens_of(beta, begin, end);
    args.state = state.view();
    args.out = tokens_of(out, begin, end);
    return args;
  }

  Array q, k, v, g, beta, state, out;
};

TEST_P(Recurrent, ConvolutionsAreNearFloat64) {
  for (const DType dtype : kDTypes) {
    Conv problem(dtype);
    const std::vector<double> expected = reference_causal_conv1d(problem.args(0, 90));
    causal_conv1d(problem.args(0, 90), on(2));
    expect_near(problem.out, expected);
    for (std::int64_t c = 0; c < 270; ++c) {
      for (std::int64_t i = 0; i < 3; ++i) {
        ASSERT_EQ(problem.state.get(c * 3 + i), problem.x.get((87 + i) * 270 + c));
      }
    }
  }
}

TEST_P(Recurrent, DeltaRulesAreNearFloat64) {
  for (const DType dtype : kDTypes) {
    Delta problem(dtype);
    const GatedDeltaRuleReference expected = reference_gated_delta_rule(problem.args(0, 90));
    gated_delta_rule(problem.args(0, 90), on(2));
    expect_near(problem.out, expected.out);
    expect_near(problem.state, expected.state);
  }
}

template <class Problem, class Call>
void expect_same_bits_however_cut(DType dtype, const Call& call) {
  Problem whole(dtype);
  call(whole.args(0, 90), 1);
  for (const std::int64_t step : {1, 7, 64}) {
    Problem cut(dtype);
    for (std::int64_t begin = 0; begin < 90; begin += step) {
      call(cut.args(begin, std::min<std::int64_t>(90, begin + step)), 1 + begin % 3);
    }
    ASSERT_EQ(cut.out.bytes, whole.out.bytes) << step;
    ASSERT_EQ(cut.state.bytes, whole.state.bytes) << step;
  }
}

TEST_P(Recurrent, NoCutChangesABit) {
  for (const DType dtype : kDTypes) {
    expect_same_bits_however_cut<Conv>(dtype, [&](const CausalConv1dArgs& args, auto threads) {
      causal_conv1d(args, on(static_cast<int>(threads)));
    });
    expect_same_bits_however_cut<Delta>(dtype, [&](const GatedDeltaRuleArgs& args, auto threads) {
      gated_delta_rule(args, on(static_cast<int>(threads)));
    });
  }
}

}  // namespace
}  // namespace quire::testing
