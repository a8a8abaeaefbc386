// Random operations on a pool and its tables, next to a plain model.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "kv/table/block_table_machine.h"
#include "kv/table/model_steps.h"

namespace quire::testing {
namespace {

class BlockTableModel : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(BlockTableModel, RandomOperations) {
  BlockTableMachine machine(new_pool(24, GetParam()), std::mt19937(7));
  const int steps = model_steps(25'000);
  for (int step = 0; step < steps; ++step) {
    machine.step();
    if (step % 8 == 0) machine.verify_counts();
    if (step % 32 == 0) machine.verify_contents();
    if (::testing::Test::HasFatalFailure()) FAIL() << "at step " << step;
  }
  EXPECT_GT(machine.copies(), 0);
  EXPECT_GT(machine.refusals(), 0);
  EXPECT_GT(machine.refused_truncations(), 0);
  EXPECT_GT(machine.refused_keeps(), 0);
  machine.finish();
}

INSTANTIATE_TEST_SUITE_P(BlockSizes, BlockTableModel, ::testing::Values(2, 4, 5, 16),
                         [](const auto& param) { return std::to_string(param.param); });

// With blocks of one token there is never a partial one, hence never a copy.
TEST(BlockTableModelOfOne, BlocksOfOneToken) {
  BlockTableMachine machine(new_pool(24, 1), std::mt19937(3));
  const int steps = model_steps(2000);
  for (int step = 0; step < steps; ++step) {
    machine.step();
    machine.verify_counts();
    if (step % 32 == 0) machine.verify_contents();
    if (::testing::Test::HasFatalFailure()) FAIL() << "at step " << step;
  }
}

}  // namespace
}  // namespace quire::testing
