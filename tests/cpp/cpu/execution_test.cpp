// With which kernels, and on how many threads, operations run where nobody says it.
#include "quire/cpu/execution.h"

#include <gtest/gtest.h>

#include <string>

#include "quire/base/check.h"
#include "quire/base/thread_pool.h"
#include "support/with_instruction_set.h"

namespace quire {
namespace {

using testing::WithInstructionSet;

TEST(Execution, HasTheKernelsThatAreNamed) {
  for (const std::string_view name : available_instruction_sets()) {
    const WithInstructionSet named(name);
    EXPECT_EQ(default_execution(1).kernels, &kernels_named(name));
  }
  const WithInstructionSet none("none");
  EXPECT_THROW(default_execution(1), ValueError);
}

TEST(Execution, HasAsManyThreadsAsItIsToldOrTheDefault) {
  EXPECT_EQ(default_execution(3).num_threads, 3);
  EXPECT_EQ(default_execution().num_threads, default_num_threads());
  try {
    default_execution(-1, "linear");
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_EQ(std::string(error.what()), "linear: num_threads: got -1, expected >= 1");
  }
}

}  // namespace
}  // namespace quire
