// Tokens that are taken back, of tables with open blocks: how far, what that takes, and what holds
// beyond.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "kv/table/open_bits.h"
#include "kv/table/open_sequence.h"
#include "kv/table/straight_rows.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kTokens = ColumnHistory::kTokens;

// Rows of one large number, as no other token has.
void append_outlier(BlockTable& table) {
  std::vector<std::int64_t> slots(1);
  table.append(slots, [&](std::span<const std::int64_t> part) {
    write_open_row(*table.pool(), part[0], [](auto...) { return 3e4f; });
  });
}

TEST(RollBack, AcceptedTokensAreNotSealedOnTheGridOfRejectedOnes) {
  const auto pool = new_int4_pool(16, 16);
  BlockTable table(pool), twin(pool);
  append_open(table, tokens_from(0, 8));
  append_open(twin, tokens_from(0, 8));
  append_outlier(table);
  append_straight(table, tokens_from(100, 39));
  EXPECT_FALSE(table.explain()[0].is_open);
  table.truncate(8);
  EXPECT_TRUE(table.explain()[0].is_open);
  EXPECT_EQ(read_bits(table), read_bits(twin));
  append_open(table, tokens_from(8, 60));
  append_open(twin, tokens_from(8, 60));
  EXPECT_EQ(read_bits(table), read_bits(twin));
}

TEST(RollBack, SixtyFourTokensAndNoMore) {
  const auto pool = new_int4_pool(64);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 32));
  const std::vector<std::string> before = read_bits(table);
  append_straight(table, tokens_from(100, kTokens));
  table.truncate(32);
  EXPECT_EQ(read_bits(table), before);
  EXPECT_TRUE(table.explain()[6].is_open);
  append_straight(table, tokens_from(100, kTokens + 1));
  table.truncate(33);  // as far as it goes
  BlockTable twin(pool);
  append_open(twin, tokens_from(0, 32));
  append_open(twin, tokens_from(100, 1));
  EXPECT_EQ(read_bits(table), read_bits(twin));
  table.truncate(32);  // one token more: cut short, and what was sealed stays so
  EXPECT_FALSE(table.explain()[6].is_open);
  EXPECT_NE(read_bits(table), before);
  std::vector<std::string> sealed = read_bits(twin);
  sealed.pop_back();
  EXPECT_EQ(read_bits(table), sealed);
}

// Sixty-four twice is sixty-four too many: it is how long the table has been that counts.
TEST(RollBack, TwiceInARowIsTooFar) {
  const auto pool = new_int4_pool(64);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 30));
  const std::vector<std::string> before = read_bits(table);
  append_open(table, tokens_from(100, kTokens));
  const std::vector<std::string> between = read_bits(table);
  append_open(table, tokens_from(200, kTokens));
  table.truncate(30 + kTokens);
  EXPECT_EQ(read_bits(table), between);
  table.truncate(30);
  EXPECT_NE(read_bits(table), before);
  const std::vector<std::string> sealed = read_bits(table);
  append_open(table, tokens_from(100, kTokens));
  table.truncate(30);  // what it was then is what it comes back to
  EXPECT_EQ(read_bits(table), sealed);
}

TEST(RollBack, OnlyPoolsWithOpenBlocksPay) {
  for (const std::int64_t block_size : {1, 4, 16, 64, 100}) {
    const auto pool = new_int4_pool(400 / block_size + 8, block_size);
    BlockTable table(pool);
    const std::int64_t most = most_pinned(block_size, 2);
    for (std::uint32_t token = 0; token < 300; ++token) {
      append_open(table, {token});
      const PoolStats stats = pool->stats();
      ASSERT_LE(stats.open_blocks, 2);
      ASSERT_LE(stats.open_blocks + stats.kept_open, most);
      ASSERT_EQ(pool->num_used(), std::ssize(table.blocks()));
    }
    EXPECT_GE(pool->stats().open_blocks + pool->stats().kept_open, most - 1);
    table.free();
    EXPECT_EQ(pool->stats().kept_open, 0);
  }
}

// A sealed block that is not full is left for a new one, and had again.
TEST(RollBack, ASealedLastBlockComesBack) {
  const auto pool = new_int4_pool(64);
  PrefixCache cache(pool);
  std::unique_ptr<BlockTable> fork;
  std::vector<std::int64_t> ids(20);
  {
    BlockTable table(pool);
    append_straight(table, tokens_from(0, 20));
    cache.insert(ids, table);
  }
  ids.push_back(0);
  const auto table = cache.match(ids);
  table->truncate(18);  // within its last block
  const std::vector<std::string> before = read_bits(*table);
  const std::vector<std::int32_t> blocks = table->blocks();
  const std::int64_t used = pool->num_used();
  append_open(*table, tokens_from(50, 1));
  EXPECT_EQ(pool->num_used(), used + 1);
  append_open(*table, tokens_from(51, kTokens - 1));
  fork = table->fork();
  cache.clear();
  table->truncate(18);
  EXPECT_EQ(table->blocks(), blocks);
  EXPECT_EQ(read_bits(*table), before);
  table->free();
  fork->truncate(17);
  EXPECT_EQ(fork->blocks(), blocks);
  append_open(*fork, tokens_from(60, kTokens + 1));
  EXPECT_EQ(pool->ref_count(blocks.back()), 0);
  pool->check();
  fork->check();
}

TEST(RollBack, WhatFailsToWriteLeavesNoTrace) {
  const auto pool = new_int4_pool(64);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 30));
  const std::vector<std::string> before = read_bits(table);
  for (const int failing : {0, 1}) {
    std::vector<std::int64_t> slots(kTokens);
    int part = 0;
    const auto write = [&](std::span<const std::int64_t> taken) {
      for (const std::int64_t slot : taken) write_open(*pool, slot, 7);
      if (part++ == failing) throw std::runtime_error("no disk");
    };
    EXPECT_THROW(table.append(slots, write), std::runtime_error);
    EXPECT_EQ(read_bits(table), before);
    pool->check();
    table.check();
  }
}

// keep takes drafts out as truncate does.
TEST(RollBack, RejectedTokensOfATreeLeaveNoTrace) {
  const auto pool = new_int4_pool(32, 16);
  BlockTable table(pool), twin(pool);
  append_open(table, tokens_from(0, 8));
  append_outlier(table);
  append_open(table, tokens_from(8, 39));
  std::vector<std::int64_t> positions;
  for (std::int64_t position = 0; position < 48; ++position) {
    if (position != 8) positions.push_back(position);
  }
  table.keep(positions);
  append_open(twin, tokens_from(0, 47));
  EXPECT_EQ(read_bits(table), read_bits(twin));
}

}  // namespace
}  // namespace quire::testing
