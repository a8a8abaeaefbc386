// Rows of sealed blocks on every instruction set: the plain functions' bits.
#include <gtest/gtest.h>

#include "support/adversarial_rows.h"
#include "support/on_instruction_set.h"

namespace quire::testing {
namespace {

class SealRowsTest : public OnInstructionSet {};
INSTANTIATE_TEST_SUITE_P(All, SealRowsTest, ::testing::ValuesIn(instruction_sets()));

TEST_P(SealRowsTest, TheBitsOfThePlainFunctions) {
  const SealFunctions& seal = selected_kernels().cache->seal;
  std::mt19937 random(4);
  for (int trial = 0; trial < 100 * kKindsOfRows; ++trial) {
    const RowsAndRoom rows = hard_rows(random, trial % kKindsOfRows);
    ASSERT_TRUE(rows.sealed(seal.keys) == rows.sealed(kPlainSealing.keys)) << trial;
    ASSERT_TRUE(rows.sealed(seal.values) == rows.sealed(kPlainSealing.values)) << trial;
    for (const DType dtype : kQuantisedDTypes) {
      const auto with = [dtype](const SealFunctions& functions) {
        return [dtype, &functions](const RowsToSeal& all, const SealedRows& to) {
          functions.rows(all, dtype, to);
        };
      };
      ASSERT_TRUE(rows.sealed(with(seal)) == rows.sealed(with(kPlainSealing)))
          << trial << " " << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace quire::testing
