// Random operations on tables with open blocks that share what they can, each next to a model that
// knows of no other.
#include <gtest/gtest.h>

#include <random>

#include "kv/block_table_machine.h"
#include "kv/model_steps.h"

namespace quire::testing {
namespace {

class OpenColumnsModel : public ::testing::TestWithParam<OpenKind> {};

TEST_P(OpenColumnsModel, RandomOperations) {
  const struct {
    std::int64_t num_blocks, block_size;
    int steps;
  } lives[] = {{24, 4, 600}, {40, 1, 300}, {12, 7, 300}, {30, 2, 300}};
  std::int64_t copies = 0, refusals = 0, refused_keeps = 0;
  for (std::uint32_t seed = 0; seed < 4; ++seed) {
    for (const auto& [num_blocks, block_size, usual] : lives) {
      BlockTableMachine machine(new_open_pool(GetParam(), num_blocks, block_size),
                                std::mt19937(seed));
      const int steps = model_steps(usual);
      for (int step = 0; step < steps; ++step) {
        machine.step();
        machine.verify_counts();
        machine.verify_contents();
        if (HasFatalFailure()) FAIL() << "at step " << step << " of seed " << seed;
      }
      copies += machine.copies();
      refusals += machine.refusals();
      refused_keeps += machine.refused_keeps();
      machine.finish();
    }
  }
  EXPECT_GT(copies, 0);
  EXPECT_GT(refusals, 0);
  EXPECT_GT(refused_keeps, 0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, OpenColumnsModel, ::testing::ValuesIn(kOpenKinds), NameOfKind());

}  // namespace
}  // namespace quire::testing
