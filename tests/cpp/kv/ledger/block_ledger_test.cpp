// The books of a pool: what is counted while tables share blocks that they fill differently, and
// that check() notices every kind of contradiction.
#include "quire/kv/ledger/block_ledger.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kv/table/token_rows.h"

namespace quire {

// Opens the books for forgery.
class BlockLedgerTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kBlockSize = 4;

  auto& entry(std::int32_t block) { return ledger.blocks_[block]; }
  std::int32_t& ends(std::int32_t block, std::int64_t rows) { return ledger.ends(block, rows); }
  std::vector<std::int32_t>& free_list() { return ledger.free_; }
  static auto& forged_rows(BlockLedger& books, std::int32_t block) {
    return books.blocks_[block].rows;
  }
  static auto& forged_filled(BlockLedger& books) { return books.filled_tokens_; }
  std::int64_t& shared() { return ledger.shared_; }
  std::int64_t& held_by_tables() { return ledger.held_by_tables_; }
  std::int64_t& filled_tokens() { return ledger.filled_tokens_; }
  std::int64_t& peak_used() { return ledger.peak_used_; }

  std::int32_t take_for_table(std::int64_t rows) {
    std::int32_t block = -1;
    ledger.give_to_table({&block, 1}, rows);
    return block;
  }
  void hold(std::int32_t block, std::int64_t rows) { ledger.hold({&block, 1}, rows); }
  void drop(std::int32_t block, std::int64_t rows) { ledger.drop({&block, 1}, rows); }

  // That check() passes, that it fails while `forge` is done, and what it says.
  void expect_noticed(const std::function<void()>& forge, const std::string& message) {
    ASSERT_NO_THROW(ledger.check());
    const Saved saved(*this);
    forge();
    EXPECT_EQ(testing::message_of<InvariantError>([&] { ledger.check(); }), message);
    saved.restore(*this);
    ASSERT_NO_THROW(ledger.check());
  }

  BlockLedger ledger{6, kBlockSize};

 private:
  // All that can be forged.
  struct Saved {
    explicit Saved(BlockLedgerTest& t)
        : blocks(t.ledger.blocks_),
          free(t.ledger.free_),
          ends(t.ledger.ends_.get(), t.ledger.ends_.get() + t.ledger.num_blocks() * kBlockSize),
          totals{t.shared(), t.held_by_tables(), t.filled_tokens(), t.peak_used()} {}

    void restore(BlockLedgerTest& t) const {
      t.ledger.blocks_ = blocks;
      t.ledger.free_ = free;
      std::copy(ends.begin(), ends.end(), t.ledger.ends_.get());
      t.shared() = totals[0];
      t.held_by_tables() = totals[1];
      t.filled_tokens() = totals[2];
      t.peak_used() = totals[3];
    }

    std::vector<BlockLedger::Block> blocks;
    std::vector<std::int32_t> free, ends;
    std::array<std::int64_t, 4> totals;
  };
};

namespace {

TEST_F(BlockLedgerTest, FilledIsTheMostThatATableStillCounts) {
  const std::int32_t block = take_for_table(4);
  hold(block, 4);
  hold(block, 4);
  ledger.recount(block, 4, 1);
  ledger.recount(block, 4, 3);
  EXPECT_EQ(ledger.stats().filled_tokens, 4);
  drop(block, 4);
  EXPECT_EQ(ledger.stats().filled_tokens, 3);
  hold(block, 3);
  drop(block, 3);
  EXPECT_EQ(ledger.stats().filled_tokens, 3);
  drop(block, 3);
  EXPECT_EQ(ledger.stats().filled_tokens, 1);
  ledger.check();
  drop(block, 1);
  EXPECT_EQ(ledger.stats().filled_tokens, 0);
  EXPECT_EQ(ledger.stats().reserved_tokens, 0);
  EXPECT_EQ(ledger.num_free(), 6);
  ledger.check();
}

TEST_F(BlockLedgerTest, BlocksOfUsersAloneAreNotReserved) {
  std::int32_t blocks[2];
  ledger.give_to_user(blocks);
  EXPECT_EQ(ledger.stats().used, 2);
  EXPECT_EQ(ledger.stats().reserved_tokens, 0);

  const std::int32_t tables = take_for_table(2);
  ledger.retain({&tables, 1});
  EXPECT_EQ(ledger.stats().reserved_tokens, 4);
  EXPECT_EQ(ledger.stats().filled_tokens, 2);
  EXPECT_EQ(ledger.stats().shared, 1);
  drop(tables, 2);
  EXPECT_EQ(ledger.stats().used, 3);
  EXPECT_EQ(ledger.stats().reserved_tokens, 0);
  EXPECT_EQ(ledger.stats().filled_tokens, 0);
  EXPECT_EQ(ledger.stats().shared, 0);
  ledger.check();
}

TEST_F(BlockLedgerTest, UsersHaveALimit) {
  std::int32_t block = -1;
  ledger.give_to_user({&block, 1});
  entry(block).users = BlockLedger::kMaxUsers - 1;
  shared() = 1;
  ledger.check();
  const std::vector<std::int32_t> twice = {block, block};
  EXPECT_EQ(testing::message_of<ValueError>([&] { ledger.retain(twice); }),
            concat("BlockPool.retain: ids: got block ", block,
                   " at index 1, expected at most 1073741824 references to a block"));
  EXPECT_EQ(ledger.references(block), BlockLedger::kMaxUsers - 1);
  ledger.check();
}

// Holders in any order, against a plain list of who counts how much of which block.
TEST_F(BlockLedgerTest, RandomHoldersAgreeWithAPlainList) {
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) { return static_cast<std::int64_t>(random() % n); };
  std::vector<std::pair<std::int32_t, std::int64_t>> holders;
  for (int step = 0; step < 5000; ++step) {
    const std::int64_t rows = 1 + below(kBlockSize);
    const std::int64_t action = below(4);
    if (action == 0 && ledger.num_free() > 0) {
      holders.emplace_back(take_for_table(rows), rows);
    } else if (holders.empty()) {
      continue;
    } else {
      const std::size_t i = below(holders.size());
      if (action == 1 && holders.size() < 24) {
        hold(holders[i].first, rows);
        holders.emplace_back(holders[i].first, rows);
      } else if (action == 2) {
        ledger.recount(holders[i].first, holders[i].second, rows);
        holders[i].second = rows;
      } else {
        drop(holders[i].first, holders[i].second);
        holders.erase(holders.begin() + i);
      }
    }
    std::map<std::int32_t, std::int64_t> filled;
    std::map<std::int32_t, std::int64_t> count;
    for (const auto& [block, counted] : holders) {
      filled[block] = std::max(filled[block], counted);
      ++count[block];
    }
    std::int64_t total = 0;
    std::int64_t sharing = 0;
    for (const auto& [block, most] : filled) {
      total += most;
      sharing += count[block] > 1;
      ASSERT_EQ(ledger.references(block), count[block]);
    }
    const PoolStats stats = ledger.stats();
    ASSERT_EQ(stats.filled_tokens, total);
    ASSERT_EQ(stats.reserved_tokens, static_cast<std::int64_t>(filled.size()) * kBlockSize);
    ASSERT_EQ(stats.wasted_tokens, stats.reserved_tokens - total);
    ASSERT_EQ(stats.shared, sharing);
    ASSERT_EQ(stats.used, static_cast<std::int64_t>(filled.size()));
    ASSERT_NO_THROW(ledger.check());
  }
}

TEST_F(BlockLedgerTest, CheckNoticesEveryContradiction) {
  const std::int32_t full = take_for_table(4);
  hold(full, 2);
  const std::int32_t part = take_for_table(3);
  std::int32_t user = -1;
  ledger.give_to_user({&user, 1});
  ASSERT_EQ(full, 0);
  ASSERT_EQ(part, 1);
  ASSERT_EQ(user, 2);

  const std::string check = "BlockPool.check: ";
  expect_noticed([&] { free_list()[0] = 6; }, check + "free list: got block 6, expected 0 to 5");
  expect_noticed([&] { free_list()[0] = -1; }, check + "free list: got block -1, expected 0 to 5");
  expect_noticed([&] { free_list()[0] = free_list()[1]; },
                 check + "times in the free list: got 2 for block 4, expected 1");
  expect_noticed([&] { free_list().push_back(user); },
                 check + "times in the free list: got 1 for block 2, expected 0");
  expect_noticed([&] { free_list().pop_back(); },
                 check + "times in the free list: got 0 for block 3, expected 1");
  expect_noticed([&] { entry(user).users = 0; },
                 check + "times in the free list: got 0 for block 2, expected 1");
  expect_noticed([&] { entry(user).users = -1; },
                 check + "users: got -1 for block 2, expected >= 0");
  expect_noticed([&] { entry(4).tables = -1; },
                 check + "tables: got -1 for block 4, expected >= 0");
  expect_noticed([&] { entry(part).partial = 2; },
                 check + "tables that hold all rows: got -1 for block 1, expected >= 0");
  expect_noticed([&] { entry(full).partial = 0; },
                 check + "tables that hold some rows: got 0 for block 0, expected 1");
  expect_noticed([&] { ends(part, 1) = -1; },
                 check + "tables that end in a row: got -1 for block 1, expected >= 0");
  expect_noticed([&] { ends(part, 1) = 1; },
                 check + "tables that hold some rows: got 1 for block 1, expected 2");
  expect_noticed([&] { std::swap(ends(part, 3), ends(part, 2)); },
                 check + "rows: got 3 for block 1, expected 2");
  expect_noticed([&] { entry(full).rows = 2; }, check + "rows: got 2 for block 0, expected 4");
  expect_noticed([&] { entry(part).users = 1; }, check + "shared: got 1, expected 2");
  expect_noticed([&] { shared() = 0; }, check + "shared: got 0, expected 1");
  expect_noticed([&] { held_by_tables() = 3; }, check + "reserved_tokens: got 12, expected 8");
  expect_noticed([&] { filled_tokens() = 9; }, check + "filled_tokens: got 9, expected 7");
  expect_noticed([&] { peak_used() = 2; }, check + "peak_used: got 2, expected 3 to 6");
  expect_noticed([&] { peak_used() = 7; }, check + "peak_used: got 7, expected 3 to 6");
}

}  // namespace
// In builds that have assertions, those of the sanitizers among them; a release goes on.
TEST_F(BlockLedgerTest, ABrokenEquationEndsTheNextOperationOnItsBlock) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const std::int32_t block = take_for_table(4);
  entry(block).partial = 2;
  EXPECT_DEBUG_DEATH(hold(block, 4),
                     "broken: BlockPool.check: tables that hold some rows: got 2 for block 0");
}

TEST_F(BlockLedgerTest, LargeBooksAreCheckedWhereTheyChange) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  BlockLedger large(10000, kBlockSize);
  std::vector<std::int32_t> some(100);
  large.give_to_table(some, 2);
  forged_rows(large, some[99]) = 3;
  EXPECT_DEBUG_DEATH(large.hold(std::span(some).last(1), 1),
                     "broken: BlockPool.check: rows: got 3");
  forged_rows(large, some[99]) = 2;
  forged_filled(large) = -1;
  EXPECT_DEBUG_DEATH(large.drop(std::span(some).first(1), 4),
                     "broken: BlockPool.check: filled_tokens");
}

}  // namespace quire
