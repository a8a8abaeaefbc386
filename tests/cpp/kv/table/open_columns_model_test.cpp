// Random operations on tables with open blocks that share what they can, each next to a model that
// knows of no other.
#include <gtest/gtest.h>

#include <random>

#include "kv/table/block_table_machine.h"
#include "kv/table/model_steps.h"
#include "support/temporary_path.h"

namespace quire::testing {
namespace {

class OpenColumnsModel : public ::testing::TestWithParam<OpenKind> {
 protected:
  // `usual`: how many steps, unless told otherwise.
  void live(BlockTableMachine& machine, int usual) {
    const int steps = model_steps(usual);
    for (int step = 0; step < steps; ++step) {
      machine.step();
      machine.verify_counts();
      machine.verify_contents();
      if (HasFatalFailure()) FAIL() << "at step " << step;
    }
    copies_ += machine.copies();
    refusals_ += machine.refusals();
    refused_keeps_ += machine.refused_keeps();
    refused_openings_ += machine.refused_openings();
    restored_ += machine.restored();
    machine.finish();
  }

  std::int64_t copies_ = 0, refusals_ = 0, refused_keeps_ = 0, refused_openings_ = 0, restored_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Kinds, OpenColumnsModel, ::testing::ValuesIn(kOpenKinds), NameOfKind());

TEST_P(OpenColumnsModel, RandomOperations) {
  const struct {
    std::int64_t num_blocks, block_size;
    int steps;
  } lives[] = {{24, 4, 600}, {40, 1, 300},  {12, 7, 300},  {30, 2, 300},
               {90, 4, 400}, {300, 1, 300}, {20, 16, 300}, {10, 64, 200}};
  for (std::uint32_t seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(seed);
    for (const auto& [num_blocks, block_size, steps] : lives) {
      BlockTableMachine machine(new_open_pool(GetParam(), num_blocks, block_size),
                                std::mt19937(seed));
      live(machine, steps);
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(copies_, 0);
  EXPECT_GT(refusals_, 0);
  EXPECT_GT(refused_keeps_, 0);
}

// Blocks that come and go, and open ones that find no room, change nothing in what tables hold.
TEST_P(OpenColumnsModel, RandomOperationsInAFile) {
  constexpr std::int64_t block_size = 16;  // of which one table takes fewer than there are
  const std::int64_t least = OpenRoom::least_slots(geometry_of(GetParam(), 1, block_size));
  const struct {
    std::int64_t num_blocks, slots;
  } lives[] = {{60, least}, {60, least + 5}, {24, 45}};
  for (std::uint32_t seed = 0; seed < 3; ++seed) {
    SCOPED_TRACE(seed);
    for (const auto& [num_blocks, slots] : lives) {
      const TemporaryPath path;
      BlockTableMachine machine(
          new_backed_open_pool(GetParam(), path.text(), num_blocks, slots, block_size),
          std::mt19937(seed));
      live(machine, 250);
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(copies_, 0);
  EXPECT_GT(refusals_, 0);
  EXPECT_GT(refused_openings_, 0);
  EXPECT_GT(restored_, 0);
}

}  // namespace
}  // namespace quire::testing
