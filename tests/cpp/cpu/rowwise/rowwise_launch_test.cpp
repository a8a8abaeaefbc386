// Norms, activations and rotations on all kernels of this machine: near float64, and with bits that
// know nothing of threads and of the rows beside.
#include "quire/cpu/rowwise/rowwise_launch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "support/attention_problem.h"
#include "support/each_operator_set.h"

namespace quire::testing {
namespace {

class Rowwise : public OnOperatorSet {};

INSTANTIATE_TEST_SUITE_P(All, Rowwise, ::testing::ValuesIn(operator_sets()),
                         [](const auto& info) { return std::string(info.param->operators->name); });

void expect_near(const Array& got, const std::vector<double>& expected, double absolute) {
  const double rounding = got.dtype == DType::float32   ? 2e-6
                          : got.dtype == DType::float16 ? 0x1.1p-11
                                                        : 0x1.1p-8;
  ASSERT_EQ(got.size(), static_cast<std::int64_t>(expected.size()));
  for (std::int64_t i = 0; i < got.size(); ++i) {
    const double want = expected[static_cast<std::size_t>(i)];
    ASSERT_NEAR(got.get(i), want, rounding * std::abs(want) + absolute) << "element " << i;
  }
}

TEST_P(Rowwise, NormsAreNearFloat64) {
  for (const DType dtype : kDTypes) {
    for (const std::int64_t length : {1, 7, 64, 131}) {
      Array x = normal(dtype, {5, 2, length}, 1), weight = normal(dtype, {length}, 2);
      Array residual = normal(dtype, {5, 2, length}, 3), gate = normal(dtype, {5, 2, length}, 4);
      Array out(dtype, x.shape), sums(dtype, x.shape);
      RmsNormArgs args;
      args.x = x.view();
      args.weight = weight.view();
      args.weight_offset = 1;
      args.out = out.view();
      rms_norm(args, on(2));
      expect_near(out, reference_rms_norm(args), 1e-7);
      args.residual = residual.view();
      args.residual_out = sums.view();
      args.gate = gate.view();
      rms_norm(args, on(2));
      expect_near(out, reference_rms_norm(args), 1e-7);
    }
  }
}

TEST_P(Rowwise, GatesAreNearFloat64) {
  for (const DType dtype : kDTypes) {
    for (const Activation activation :
         {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::sigmoid}) {
      Array gate = normal(dtype, {9, 131}, 1), up = normal(dtype, {9, 131}, 2);
      Array out(dtype, gate.shape);
      const SwigluArgs args{gate.view(), up.view(), activation, out.view()};
      swiglu(args, on(2));
      expect_near(out, reference_swiglu(args), 1e-7);
    }
  }
}

TEST_P(Rowwise, RotationsAreNearFloat64FarAway) {
  const std::vector<std::int64_t> positions = {0, 1, 999983, -1000000, 1 << 20};
  for (const DType dtype : kDTypes) {
    for (const bool interleaved : {false, true}) {
      for (const std::int64_t size : {2, 42, 300}) {
        Array x = normal(dtype, {5, 3, size}, 1), out(dtype, x.shape);
        RopeArgs args;
        args.x = x.view();
        args.positions = contiguous_index_view(positions.data(), {5});
        args.interleaved = interleaved;
        args.attention_factor = 1.5;
        args.out = out.view();
        rope(args, on(2));
        expect_near(out, reference_rope(args), 3e-6);
      }
    }
  }
}

// A row's bits are the same alone, among others, and on any number of threads.
TEST_P(Rowwise, ARowsBitsAreItsOwn) {
  for (const DType dtype : kDTypes) {
    Array x = normal(dtype, {200, 1003}, 1), weight = normal(dtype, {1003}, 2);
    Array whole(dtype, x.shape), one(dtype, {1, 1003});
    RmsNormArgs args;
    args.x = x.view();
    args.weight = weight.view();
    args.gate = args.x;
    args.out = whole.view();
    rms_norm(args, on(3));
    args.x.shape[0] = 1;
    args.out = one.view();
    for (const std::int64_t row : {0, 1, 77, 199}) {
      args.x.data = x.view().at(row);
      args.gate = args.x;
      rms_norm(args, on(1));
      ASSERT_EQ(std::memcmp(one.bytes.data(), whole.view().at(row), one.bytes.size()), 0) << row;
    }
  }
}

}  // namespace
}  // namespace quire::testing
