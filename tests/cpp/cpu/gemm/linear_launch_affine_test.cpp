// Products with weights of affine numbers in groups of 32, of four bits and of eight: near float64,
// a row's bits its own, and those of tiles everywhere.
#include <string>
#include <vector>

#include "support/affine_problem.h"
#include "support/gemm_kernels_here.h"
#include "support/linear_problem.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

constexpr DType kAffine[] = {DType::int4, DType::int8};

using LinearAffine = OnGemmKernels;
INSTANTIATE_TEST_SUITE_P(All, LinearAffine, ::testing::ValuesIn(all_kernels()),
                         [](const auto& info) { return gemm_name(info.param); });

TEST_P(LinearAffine, IsNearFloat64) {
  const struct {
    std::int64_t m, n, k;
  } shapes[] = {{1, 1, 32}, {3, 31, 64}, {17, 33, 96}, {1, 96, 1120}, {40, 65, 128}};
  for (const auto& [m, n, k] : shapes) {
    for (const DType x_dtype : kDTypes) {
      for (const DType format : kAffine) {
        LinearProblem problem(m, n, k, x_dtype, DType::float32);
        const auto weight = pack_affine(AffineProblem(n, k, format).source(), 1);
        Array out;
        const LinearArgs args = problem.args(weight.get(), out, 0, m);
        linear(args, on(2));
        expect_near_reference(args, out, 5e-6);
        if (HasFatalFailure()) {
          FAIL() << m << " x " << n << " x " << k << " " << name_of(x_dtype) << " "
                 << name_of(format);
        }
      }
    }
  }
}

TEST_P(LinearAffine, ARowsBitsAreItsOwn) {
  SampledCases cases;
  const std::int64_t n = is_plain() ? 37 : 100;
  const std::int64_t k = is_plain() ? 96 : 2112;
  for (const DType x_dtype : {DType::bfloat16, DType::float32}) {
    for (const DType format : kAffine) {
      LinearProblem problem(300, n, k, x_dtype, DType::bfloat16);
      const auto weight = pack_affine(AffineProblem(n, k, format).source(), 1);
      Array all, some;
      linear(problem.args(weight.get(), all, 0, 300), on(1));
      const std::int64_t row_bytes = n * static_cast<std::int64_t>(size_of(x_dtype));
      for (std::int64_t m = 1; m <= 300; m += m < 20 ? 1 : 93) {
        if (!cases.takes_next()) continue;
        const std::int64_t begin = m % 2 == 0 ? 0 : 300 - m;
        linear(problem.args(weight.get(), some, begin, m), on(1 + static_cast<int>(m % 3)));
        expect_same_bits(some, all.bytes.data() + begin * row_bytes, "some rows");
        if (HasFatalFailure()) FAIL() << m << " rows of " << name_of(x_dtype);
      }
    }
  }
}

// Not those of scalars, whose multiply-adds round twice.
TEST(LinearAffineBits, AreThoseOfTilesEverywhere) {
  for (const std::int64_t rows : {1, 3, 16, 19, 33, 50}) {
    for (const DType format : kAffine) {
      LinearProblem problem(rows, 70, 1120, DType::bfloat16, DType::bfloat16);
      for (std::int64_t k = 0; k < 1120; k += 7) problem.x.set(k, 1e-39f);
      const auto weight = pack_affine(AffineProblem(70, 1120, format).source(), 1);
      Array expected, out;
      linear(problem.args(weight.get(), expected, 0, rows), {all_kernels().front(), 1});
      for (const SelectedKernels* const kernels : all_kernels()) {
        if (gemm_name(kernels) == "scalar") continue;
        linear(problem.args(weight.get(), out, 0, rows), {kernels, 1});
        expect_same_bits(out, expected.bytes.data(), kernels->gemm->name);
        if (HasFatalFailure()) FAIL() << rows << " rows, " << name_of(format);
      }
    }
  }
}

}  // namespace
}  // namespace quire::testing
