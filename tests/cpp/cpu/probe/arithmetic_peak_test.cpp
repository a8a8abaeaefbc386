#include "quire/cpu/probe/arithmetic_peak.h"

#include <gtest/gtest.h>

#include <string>

#include "quire/base/check.h"
#include "quire/cpu/kernel_list.h"

namespace quire {
namespace {

constexpr DType kKinds[] = {DType::float32, DType::bfloat16};

// Tiles alone have no arithmetic of their own: that of vectors is measured.
bool offers_arithmetic(const KernelSource& source) {
  return source.kernels->probe.instruction_set != nullptr && source.runs_here();
}

// All factors are 1: the sum counts the multiply-adds that were really done.
TEST(ArithmeticPeak, EveryFlopThatIsCountedIsDone) {
  for (const KernelSource& source : kernel_list()) {
    if (!offers_arithmetic(source)) continue;
    const ProbeKernels& kernels = source.kernels->probe;
    for (const DType dtype : kKinds) {
      for (const std::int64_t rounds : {1, 2, 1000}) {
        float total = -1;
        const double flops = kernels.arithmetic(dtype, rounds, &total);
        if (flops == 0) {
          EXPECT_EQ(dtype, DType::bfloat16) << kernels.instruction_set;
          EXPECT_EQ(total, -1) << kernels.instruction_set;
          continue;
        }
        EXPECT_EQ(2 * static_cast<double>(total), flops) << kernels.instruction_set;
        EXPECT_EQ(flops, static_cast<double>(rounds) * kernels.arithmetic(dtype, 1, &total));
      }
    }
  }
}

TEST(ArithmeticPeak, EveryInstructionSetHasOne) {
  for (const KernelSource& source : kernel_list()) {
    if (!offers_arithmetic(source)) continue;
    for (const int num_threads : {1, 3}) {
      EXPECT_GT(arithmetic_peak(DType::float32, num_threads, source.kernels->probe), 0);
    }
  }
}

TEST(ArithmeticPeak, RefusesWhatAnInstructionSetCannotDo) {
  const auto refused = [](DType dtype) -> std::string {
    try {
      arithmetic_peak(dtype, 1, kScalarKernels.probe);
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refused(DType::bfloat16),
            "arithmetic_peak: kind: got \"bfloat16\", expected float32, as scalar has no such "
            "multiply-add");
  EXPECT_NE(refused(DType::float16), "");
  EXPECT_EQ(refused(DType::float32), "");
}

}  // namespace
}  // namespace quire
