// The books of open blocks: who has a slot, and that check notices where they contradict
// themselves.
#include "quire/kv/ledger/open_slots.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quire/kv/ledger/block_ledger.h"

namespace quire {

class OpenSlotsTest : public ::testing::Test {
 protected:
  static auto& blocks(OpenSlots& slots) { return slots.blocks_; }
  static auto& free_slots(OpenSlots& slots) { return slots.unused_; }

  // "" where check finds nothing.
  static std::string flaw(const OpenSlots& slots, std::int32_t block, const BlockHolders& holders) {
    try {
      slots.check(block, holders);
      slots.check();
    } catch (const InvariantError& error) {
      return error.what();
    }
    return "";
  }

  OpenSlots slots_{4};
};

TEST_F(OpenSlotsTest, SlotsAreOfBlocksThatNeedThem) {
  EXPECT_EQ(slots_.num_open(), 0);
  EXPECT_TRUE(slots_.is_sealed(2));
  EXPECT_EQ(slots_.open(2), 0);
  EXPECT_EQ(slots_.open(0), 1);
  EXPECT_EQ(slots_.num_open(), 2);
  EXPECT_FALSE(slots_.is_sealed(2));
  slots_.pin(2, true);
  slots_.note_sealed(2);
  slots_.unpin(2, true);
  EXPECT_EQ(slots_.slot(2), 0);  // another reads it open
  slots_.unpin(2, true);
  EXPECT_EQ(slots_.slot(2), OpenSlots::kNone);
  EXPECT_EQ(slots_.num_open(), 1);
  EXPECT_EQ(slots_.open(3), 0);  // the slot used last
  slots_.unpin(3, true);
  EXPECT_EQ(slots_.slot(3), 0);  // whose rows are nowhere else
  slots_.note_free(3);
  EXPECT_EQ(slots_.slot(3), OpenSlots::kNone);
  EXPECT_TRUE(slots_.is_sealed(3));
  EXPECT_EQ(slots_.num_open(), 1);
  EXPECT_EQ(slots_.open(1), 0);
  EXPECT_EQ(slots_.open(2), 2);
  slots_.check();
}

TEST_F(OpenSlotsTest, WhatIsWrittenIsNotSealed) {
  slots_.open(1);
  slots_.note_sealed(1);
  EXPECT_TRUE(slots_.is_sealed(1));
  EXPECT_EQ(slots_.slot(1), 0);
  slots_.write(1);
  EXPECT_FALSE(slots_.is_sealed(1));
}

// Those used longest ago leave, are nobody's meanwhile, and come after those that have memory.
TEST_F(OpenSlotsTest, UnusedSlotsGiveTheirMemoryBack) {
  for (const std::int32_t block : {0, 1, 2, 3}) slots_.open(block);
  EXPECT_TRUE(slots_.take_unused(0).empty());
  for (const std::int32_t block : {2, 0, 3}) {
    slots_.unpin(block, true);
    slots_.note_free(block);
  }
  EXPECT_EQ(slots_.num_open(), 1);
  EXPECT_EQ(slots_.num_in_memory(), 4);
  EXPECT_TRUE(slots_.take_unused(3).empty());
  const auto leaving = slots_.take_unused(1);
  EXPECT_EQ(std::vector(leaving.begin(), leaving.end()), (std::vector<std::int32_t>{2, 0}));
  slots_.check();
  EXPECT_EQ(slots_.num_open(), 1);
  EXPECT_EQ(slots_.num_in_memory(), 2);
  EXPECT_EQ(slots_.open(0), 3);
  slots_.note_cleared();
  EXPECT_EQ(slots_.num_in_memory(), 2);
  EXPECT_EQ(slots_.open(2), 0);
  EXPECT_EQ(slots_.num_in_memory(), 3);
  EXPECT_EQ(slots_.num_open(), 3);
  slots_.check();
}

TEST_F(OpenSlotsTest, CheckFindsContradictions) {
  const BlockHolders table{.users = 0, .tables = 1, .caches = 0, .rows = 4};
  slots_.open(1);
  EXPECT_EQ(flaw(slots_, 1, table), "");
  EXPECT_EQ(flaw(slots_, 0, {}), "");
  EXPECT_EQ(flaw(slots_, 1, {.users = 1}),
            "BlockPool.check: pins: got 1 for block 1, expected 0 to the tables that hold it");
  EXPECT_EQ(flaw(slots_, 1, {.users = 0, .tables = 1, .caches = 1}),
            "BlockPool.check: sealed: got 0 for block 1, expected 1, as a cache holds it");
  slots_.unpin(1, true);
  EXPECT_EQ(flaw(slots_, 1, {}),
            "BlockPool.check: open slot: got 0 for block 1, expected none: free");
  EXPECT_EQ(flaw(slots_, 1, table), "");
  blocks(slots_)[1].is_sealed = true;
  EXPECT_EQ(
      flaw(slots_, 1, table),
      "BlockPool.check: open slot: got 0 for block 1, expected none, as it is sealed and nobody's");
  blocks(slots_)[1] = {};
  blocks(slots_)[2].is_sealed = false;
  EXPECT_EQ(flaw(slots_, 2, table), "BlockPool.check: open slot: got -1 for block 2, expected one");
  blocks(slots_)[2] = {};
  EXPECT_EQ(flaw(slots_, 0, {}),
            "BlockPool.check: uses of open slots: got 0 for slot 0, expected 1");
  free_slots(slots_) = {0, 0};
  EXPECT_EQ(flaw(slots_, 0, {}),
            "BlockPool.check: uses of open slots: got 2 for slot 0, expected 1");
  free_slots(slots_) = {5};
  EXPECT_EQ(flaw(slots_, 0, {}), "BlockPool.check: open slot: got 5, expected 0 to 0");
}

TEST_F(OpenSlotsTest, OfAPoolThatOpensNoneAllBlocksAreSealed) {
  OpenSlots none(0);
  EXPECT_TRUE(none.is_sealed(3));
  none.note_free(3);
  EXPECT_EQ(none.num_open(), 0);
  EXPECT_EQ(none.num_used(), 0);
  EXPECT_EQ(none.num_in_memory(), 0);
  EXPECT_EQ(flaw(none, 3, {.users = 1}), "");
}

// In builds that have assertions, those of the sanitizers among them; a release goes on.
TEST_F(OpenSlotsTest, ABrokenEquationEndsTheNextOperation) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  slots_.open(1);
  blocks(slots_)[1].readers = 7;
  EXPECT_DEBUG_DEATH(slots_.pin(1, false), "broken: BlockPool.check: readers: got 7");
}

}  // namespace quire
