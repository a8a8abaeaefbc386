// Products with packed weights, on all kernels of this machine and on the model of tiles: near
// float64, and with bits that know nothing of the rows beside, of threads and of who computes.
#include "quire/cpu/gemm/linear_launch.h"

#include <limits>
#include <thread>

#include "quire/base/interruption.h"
#include "support/gemm_kernels_here.h"
#include "support/linear_problem.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

using Linear = OnGemmKernels;

constexpr DType kFormats[] = {DType::float32, DType::float16, DType::bfloat16, DType::int8,
                              DType::int4};

INSTANTIATE_TEST_SUITE_P(All, Linear, ::testing::ValuesIn(all_kernels()),
                         [](const auto& info) { return gemm_name(info.param); });

TEST_P(Linear, IsNearFloat64) {
  const struct {
    std::int64_t m, n, k;
  } shapes[] = {{1, 1, 1}, {0, 5, 7}, {3, 31, 33}, {17, 33, 64}, {1, 96, 257}, {40, 65, 129}};
  for (const auto& [m, n, k] : shapes) {
    for (const DType x_dtype : kDTypes) {
      for (const DType format : kFormats) {
        LinearProblem problem(m, n, k, x_dtype, DType::float32, k % 2 != 0);
        const auto weight = problem.packed(format);
        Array out;
        const LinearArgs args = problem.args(weight.get(), out, 0, m);
        linear(args, on(2));
        // sums of int4's numbers, which are not around zero, are larger than those of its weights
        expect_near_reference(args, out, format == DType::int4 ? 5e-6 : 1e-6);
        if (HasFatalFailure()) {
          FAIL() << m << " x " << n << " x " << k << " " << name_of(x_dtype) << " "
                 << name_of(format);
        }
      }
    }
  }
}

// A row's bits are the same alone, among any others, and on any number of threads. The rows of 300
// and of 600 numbers of K go through all sizes of row groups, and tiles that are cut.
TEST_P(Linear, ARowsBitsAreItsOwn) {
  SampledCases cases;
  const std::int64_t n = is_plain() ? 37 : 100;
  const std::int64_t k = is_plain() ? 70 : 2100;
  for (const DType x_dtype : {DType::bfloat16, DType::float32}) {
    for (const DType format : kFormats) {
      LinearProblem problem(300, n, k, x_dtype, DType::bfloat16);
      const auto weight = problem.packed(format);
      Array all, some;
      linear(problem.args(weight.get(), all, 0, 300), on(1));
      const std::int64_t row_bytes = n * static_cast<std::int64_t>(size_of(x_dtype));
      for (std::int64_t m = 1; m <= 300; m += m < 20 ? 1 : 93) {
        for (const std::int64_t begin : {std::int64_t{0}, 300 - m}) {
          if (!cases.takes_next()) continue;
          linear(problem.args(weight.get(), some, begin, m), on(1 + static_cast<int>(m % 3)));
          expect_same_bits(some, all.bytes.data() + begin * row_bytes, "some rows");
          if (HasFatalFailure()) {
            FAIL() << m << " rows from " << begin << " " << name_of(x_dtype) << " "
                   << name_of(format);
          }
        }
      }
    }
  }
}

// More rows than one task, whose sums wait while K is cut.
TEST_P(Linear, ManyRowsHaveTheBitsOfOne) {
  if (is_plain()) GTEST_SKIP() << "slow";
  LinearProblem problem(1100, 70, 4200, DType::bfloat16, DType::bfloat16);
  for (const DType format : {DType::bfloat16, DType::int8, DType::int4}) {
    const auto weight = problem.packed(format);
    Array all, one;
    linear(problem.args(weight.get(), all, 0, 1100), on(2));
    for (const std::int64_t row : {0, 15, 16, 511, 512, 1023, 1024, 1099}) {
      linear(problem.args(weight.get(), one, row, 1), on(1));
      expect_same_bits(one, all.bytes.data() + row * 140, "one row of many");
    }
  }
}

TEST_P(Linear, AnArrayHasTheBitsOfItsPackedWeight) {
  for (const DType dtype : kDTypes) {
    LinearProblem problem(21, 600, 45, DType::bfloat16, dtype);
    const auto weight = problem.packed(dtype);
    Array packed, array;
    linear(problem.args(weight.get(), packed, 0, 21), on(2));
    linear(problem.args(nullptr, array, 0, 21), on(2));
    expect_same_bits(array, packed.bytes.data(), "array");
  }
}

// What is not finite in a row stays in it, and huge numbers overflow nowhere else.
TEST_P(Linear, RowsDoNotTouchEachOther) {
  for (const DType format : kFormats) {
    LinearProblem problem(20, 40, 100, DType::bfloat16, DType::bfloat16);
    const auto weight = problem.packed(format);
    Array clean, out;
    linear(problem.args(weight.get(), clean, 0, 20), on(1));
    problem.x.set(4 * 103 + 50, kNaN);
    problem.x.set(7 * 103 + 99, kInfinity);
    for (int k = 0; k < 100; ++k) problem.x.set(9 * 103 + k, 3e38f);
    linear(problem.args(weight.get(), out, 0, 20), on(1));
    for (std::int64_t row = 0; row < 20; ++row) {
      const bool is_clean = row != 4 && row != 7 && row != 9;
      for (std::int64_t i = row * 40; i < (row + 1) * 40; ++i) {
        if (is_clean) {
          ASSERT_EQ(out.get(i), clean.get(i)) << "row " << row;
        } else if (row == 4) {
          ASSERT_TRUE(std::isnan(out.get(i)));
        } else if (row == 7) {
          ASSERT_FALSE(std::isfinite(out.get(i)));
        }
      }
    }
  }
}

// The bits of tiles: on whatever vectors, and in the model. Subnormal numbers are zero to all. Not
// of scalars, whose multiply-adds round twice.
TEST(LinearBits, AreThoseOfTilesEverywhere) {
  SampledCases cases;
  // of few rows a panel goes through tiles whole, of more in parts of 512 numbers of K
  for (const std::int64_t rows : {1, 16, 19, 33, 50}) {
    for (const WeightOptions options : {WeightOptions{DType::bfloat16, std::nullopt},
                                        {DType::int8, std::nullopt},
                                        {DType::int4, 32},
                                        {DType::int4, 64},
                                        {DType::int4, 128}}) {
      if (!cases.takes_next()) continue;
      LinearProblem problem(rows, 70, 1130, DType::bfloat16, DType::bfloat16);
      for (std::int64_t k = 0; k < 1130; k += 7) problem.x.set(k, 1e-39f);
      for (std::int64_t k = 0; k < 1130; ++k) {
        problem.x.set((rows - 1) * 1133 + k, 1e-37f * float(k % 3));
      }
      const auto weight = pack_weight(problem.w.view(), options, 1);
      Array expected, out;
      linear(problem.args(weight.get(), expected, 0, rows), {all_kernels().front(), 1});
      for (const SelectedKernels* const kernels : all_kernels()) {
        if (gemm_name(kernels) == "scalar") continue;
        linear(problem.args(weight.get(), out, 0, rows), {kernels, 1});
        expect_same_bits(out, expected.bytes.data(), kernels->gemm->name);
        if (HasFatalFailure()) FAIL() << rows << " rows, " << name_of(options.format);
      }
    }
  }
}

TEST(LinearLaunch, ConcurrentCallsHaveTheSameBits) {
  LinearProblem problem(5, 500, 300, DType::float32, DType::float32);
  const auto weight = problem.packed(DType::bfloat16);
  const Execution how = default_execution(2);
  Array expected;
  linear(problem.args(weight.get(), expected, 0, 5), how);
  std::vector<std::thread> threads;
  std::vector<Array> outs(4);
  std::vector<LinearArgs> args;
  for (Array& out : outs) args.push_back(problem.args(weight.get(), out, 0, 5));
  for (const LinearArgs& each : args) {
    threads.emplace_back([&each, how] {
      for (int i = 0; i < 20; ++i) linear(each, how);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Array& out : outs) expect_same_bits(out, expected.bytes.data(), "concurrent");
}

// A call that is to end multiplies no further panel, though a worker takes several of them in one
// item.
TEST(LinearLaunch, AnInterruptedCallEndsAtTheNextPanel) {
  static int multiplied, stopped_at;
  static constexpr GemmPath kPlain = LaneGemm<Scalar>::path();
  GemmKernels kernels = kModelGemm;
  kernels.lanes.multiply = [](const GemmTask& task, const std::byte* packed,
                              const PanelRange& panels, std::byte* scratch) {
    kPlain.multiply(task, packed, panels, scratch);
    if (++multiplied == stopped_at) is_interrupted(true);
  };
  const SelectedKernels selected = with_products(kernels);
  constexpr std::int64_t kPanels = 128;  // of which one worker takes 16 in an item
  LinearProblem problem(1, kPanels * kPanelColumns, 32, DType::float32, DType::float32);
  const auto weight = problem.packed(DType::float32);
  Array out;
  for (const int at : {1, 2, 16, 17, 60}) {
    multiplied = 0;
    stopped_at = at;
    const Interruptible interruptible([] { return true; });
    EXPECT_THROW(linear(problem.args(weight.get(), out, 0, 1), {&selected, 1}), Interrupted);
    EXPECT_EQ(multiplied, at);
  }
}

}  // namespace
}  // namespace quire::testing
