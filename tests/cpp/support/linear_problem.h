// Random matrix products, and what their results are compared with.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "quire/cpu/gemm/linear_launch.h"
#include "quire/ops/linear/pack_weight.h"
#include "support/attention_problem.h"

namespace quire::testing {

// x [M, K], whose rows end in `gap` NaNs that are not theirs, w [N, K] and perhaps a bias [N].
struct LinearProblem {
  LinearProblem(std::int64_t m, std::int64_t n, std::int64_t k, DType x_dtype, DType w_dtype,
                bool has_bias = true, std::uint32_t seed = 1)
      : num_rows(m),
        num_columns(n),
        depth(k),
        x(x_dtype, {m, k + kGap}),
        w(w_dtype, {n, k}),
        bias(w_dtype, {n}),
        has_bias_(has_bias) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < x.size(); ++i) {
      x.set(i, i % (k + kGap) < k ? normal(random) : kNaN);
    }
    for (std::int64_t i = 0; i < w.size(); ++i) w.set(i, normal(random));
    for (std::int64_t i = 0; i < n; ++i) bias.set(i, normal(random));
  }

  // Of rows [begin, begin + count), into the rows of out from the first one on.
  LinearArgs args(const Weight* weight, Array& out, std::int64_t begin, std::int64_t count) {
    LinearArgs args;
    args.x = x.view();
    args.x.data = args.x.at(begin);
    args.x.shape[0] = count;
    args.x.shape[1] = depth;
    args.weight = weight;
    if (weight == nullptr) args.weight_array = w.view();
    if (has_bias_) args.bias = bias.view();
    out = Array(x.dtype, {count, num_columns});
    args.out = out.view();
    return args;
  }

  std::shared_ptr<const Weight> packed(DType format) {
    return pack_weight(w.view(), {format, std::nullopt}, 1);
  }

  static constexpr std::int64_t kGap = 3;
  std::int64_t num_rows, num_columns, depth;
  Array x, w, bias;

 private:
  bool has_bias_;
};

// Results of two calls that must be the same bits.
inline void expect_same_bits(const Array& got, const std::byte* expected, const char* what) {
  ASSERT_EQ(std::memcmp(got.bytes.data(), expected, got.bytes.size()), 0) << what;
}

// Each result within `tolerance` of float64's, in units of the length of the vector of products, or
// half a unit in the last place of its dtype.
inline void expect_near_reference(const LinearArgs& args, const Array& out, double tolerance) {
  const std::vector<double> expected = reference_linear(args);
  const std::int64_t n = args.layout().num_rows;
  const double rounding = args.out.dtype == DType::float32   ? 0x1p-24
                          : args.out.dtype == DType::float16 ? 0x1p-11
                                                             : 0x1p-8;
  for (std::int64_t i = 0; i < out.size(); ++i) {
    double squares = 0;
    for (std::int64_t k = 0; k < args.layout().num_columns; ++k) {
      const double x = visit_dtype(args.x.dtype, [&](auto type) -> double {
        return to_float(*reinterpret_cast<const decltype(type)*>(args.x.at(i / n, k)));
      });
      const double w = args.weight != nullptr
                           ? args.weight->at(i % n, k)
                           : visit_dtype(args.weight_array->dtype, [&](auto type) -> double {
                               return to_float(*reinterpret_cast<const decltype(type)*>(
                                   args.weight_array->at(i % n, k)));
                             });
      squares += x * w * x * w;
    }
    const double want = expected[static_cast<std::size_t>(i)];
    const double bound = tolerance * (1 + std::sqrt(squares)) + 1.01 * rounding * std::abs(want);
    ASSERT_NEAR(out.get(i), want, bound) << "row " << i / n << ", column " << i % n;
  }
}

}  // namespace quire::testing
