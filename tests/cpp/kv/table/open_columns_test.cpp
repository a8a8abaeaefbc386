// Tables of int4: which columns are open, what each reads, and that nobody else decides it.
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "kv/table/open_sequence.h"
#include "kv/table/straight_rows.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire::testing {
namespace {

TEST(OpenColumns, LastTwoBlocksStayOpen) {
  const auto pool = new_int4_pool(16);
  BlockTable table(pool);
  OpenSequence model(pool->geometry());
  for (std::uint32_t token = 0; token < 30; ++token) {
    append_open(table, {token});
    model.append({token});
    ASSERT_TRUE(model.is_what(table)) << token;
    const std::int64_t columns = token / 4 + 1;
    EXPECT_EQ(pool->stats().open_blocks, std::min<std::int64_t>(columns, 2));
    const std::vector<std::int32_t> ids = packed(table), blocks = table.blocks();
    for (std::int64_t column = 0; column < columns; ++column) {
      EXPECT_EQ(ids[column] >= 16, column >= columns - 2);
      if (column < columns - 2) {
        EXPECT_EQ(ids[column], blocks[column]);
      }
    }
    pool->check();
  }
  table.free();
  EXPECT_EQ(pool->stats().open_blocks, 0);
  pool->check();
}

// One token at a time or all at once, the same bits, and few open blocks.
TEST(OpenColumns, AppendsInParts) {
  const auto pool = new_int4_pool(128);
  const Tokens tokens = tokens_from(5, 131);
  BlockTable one_by_one(pool), at_once(pool);
  OpenSequence model(pool->geometry());
  for (const std::uint32_t token : tokens) append_open(one_by_one, {token});
  model.append(tokens);
  ASSERT_TRUE(model.is_what(one_by_one));
  std::vector<std::int64_t> slots(tokens.size());
  std::size_t next = 0;
  std::int64_t most_open = 0;
  at_once.append(slots, [&](std::span<const std::int64_t> part) {
    for (const std::int64_t slot : part) write_open(*pool, slot, tokens[next++]);
    most_open = std::max(most_open, pool->stats().open_blocks);
  });
  ASSERT_EQ(next, tokens.size());
  EXPECT_LE(most_open, 12);
  EXPECT_TRUE(model.is_what(at_once));
  pool->check();
}

// Blocks that would not stay open are never opened, whatever stood before.
TEST(OpenColumns, WholeBlocksGoStraightToTheirTiles) {
  for (const std::int64_t before : {0, 3, 4, 6, 8, 13}) {
    for (const std::int64_t count : {0, 1, 2, 5, 8, 9, 12, 13, 40, 131}) {
      const auto pool = new_int4_pool(128);
      BlockTable table(pool);
      OpenSequence model(pool->geometry());
      append_open(table, tokens_from(500, before));
      model.append(tokens_from(500, before));
      const auto fork = table.fork();
      const OpenSequence fork_model = model;
      append_straight(table, tokens_from(5, count));
      model.append(tokens_from(5, count));
      ASSERT_TRUE(model.is_what(table)) << before << " " << count;
      ASSERT_TRUE(fork_model.is_what(*fork)) << before << " " << count;
      pool->check();
      fork->free();
      EXPECT_EQ(pool->stats().open_blocks, std::min<std::int64_t>((before + count + 3) / 4, 2));
    }
  }
}

TEST(OpenColumns, WritingBehindSealedRowsOpensThem) {
  const auto pool = new_int4_pool(64);
  BlockTable table(pool);
  OpenSequence model(pool->geometry());
  append_open(table, tokens_from(0, 104));  // more than 64 of which are taken back
  model.append(tokens_from(0, 104));
  const auto fork = table.fork();
  OpenSequence fork_model = model;
  const std::vector<std::int32_t> before = table.blocks();
  table.truncate(6);
  model.truncate(6);
  EXPECT_EQ(pool->stats().open_blocks, 2);  // of the fork
  append_open(table, tokens_from(100, 1));  // into a copy
  model.append(tokens_from(100, 1));
  EXPECT_NE(table.blocks()[1], before[1]);
  EXPECT_EQ(pool->stats().copies_on_write, 1);
  ASSERT_TRUE(model.is_what(table));
  ASSERT_TRUE(fork_model.is_what(*fork));
  table.free();
  fork->truncate(6);
  fork_model.truncate(6);
  ASSERT_TRUE(fork_model.is_what(*fork));
  append_open(*fork, tokens_from(200, 9));  // in a block of its own as well
  fork_model.append(tokens_from(200, 9));
  EXPECT_NE(fork->blocks()[1], before[1]);
  EXPECT_EQ(pool->stats().copies_on_write, 1);  // nobody shares what it leaves
  EXPECT_EQ(pool->ref_count(before[1]), 1);
  ASSERT_TRUE(fork_model.is_what(*fork));
  fork->truncate(6);  // which has it back
  fork_model.truncate(6);
  EXPECT_EQ(fork->blocks()[1], before[1]);
  ASSERT_TRUE(fork_model.is_what(*fork));
  append_open(*fork, tokens_from(200, 65));
  fork_model.append(tokens_from(200, 65));
  EXPECT_EQ(pool->ref_count(before[1]), 0);  // too long ago
  ASSERT_TRUE(fork_model.is_what(*fork));
  pool->check();
}

// Of two that share a block, one seals it and the other still reads it open.
TEST(OpenColumns, SealingIsEachTablesOwn) {
  const auto pool = new_int4_pool(32);
  BlockTable table(pool);
  OpenSequence model(pool->geometry());
  append_open(table, tokens_from(0, 8));
  model.append(tokens_from(0, 8));
  auto fork = table.fork();
  const OpenSequence fork_model = model;
  append_open(table, tokens_from(50, 8));
  model.append(tokens_from(50, 8));
  ASSERT_TRUE(model.is_what(table));
  ASSERT_TRUE(fork_model.is_what(*fork));
  EXPECT_EQ(fork->blocks()[0], table.blocks()[0]);
  EXPECT_NE(packed(*fork)[0], packed(table)[0]);
  EXPECT_EQ(pool->stats().open_blocks, 4);
  pool->check();
  fork->free();
  EXPECT_EQ(pool->stats().open_blocks, 2);
  ASSERT_TRUE(model.is_what(table));
  pool->check();
}

TEST(OpenColumns, ExhaustionChangesNothing) {
  const auto pool = new_int4_pool(6);
  BlockTable table(pool);
  OpenSequence model(pool->geometry());
  extend_open(table, tokens_from(0, 18));  // five open columns
  model.extend(tokens_from(0, 18));
  const std::vector<std::int32_t> ids = packed(table);
  EXPECT_THROW(table.extend(7), OutOfBlocks);
  EXPECT_THROW(append_open(table, tokens_from(30, 7)), OutOfBlocks);
  EXPECT_EQ(packed(table), ids);
  ASSERT_TRUE(model.is_what(table));
  pool->check();
  extend_open(table, tokens_from(30, 6));
  model.extend(tokens_from(30, 6));
  ASSERT_TRUE(model.is_what(table));
}

TEST(OpenColumns, WhatFailsToWriteIsTakenBack) {
  const auto pool = new_int4_pool(64);
  BlockTable table(pool);
  OpenSequence model(pool->geometry());
  append_open(table, tokens_from(0, 6));
  model.append(tokens_from(0, 6));
  for (const int failing : {0, 1, 3}) {
    std::vector<std::int64_t> slots(140);
    int part = 0;
    const auto write = [&](std::span<const std::int64_t> taken) {
      for (const std::int64_t slot : taken) write_open(*pool, slot, 7);
      if (part++ == failing) throw std::runtime_error("no disk");
    };
    BlockTable other(pool);
    EXPECT_THROW(other.append(slots, write), std::runtime_error);
    EXPECT_EQ(other.num_tokens(), 0);
    EXPECT_EQ(pool->num_used(), 2);
    EXPECT_EQ(pool->stats().open_blocks, 2);
    pool->check();
  }
  ASSERT_TRUE(model.is_what(table));
  std::vector<std::int64_t> slots(3);
  EXPECT_THROW(table.append(slots, [](auto) { throw std::runtime_error("no disk"); }),
               std::runtime_error);
  ASSERT_TRUE(model.is_what(table));
  pool->check();
}

TEST(OpenColumns, WhatFailsToGoStraightIsTakenBack) {
  const auto pool = new_int4_pool(64);
  BlockTable table(pool);
  OpenSequence model(pool->geometry());
  append_open(table, tokens_from(0, 9));
  model.append(tokens_from(0, 9));
  for (const int failing : {0, 1, 2}) {
    std::vector<std::int64_t> slots(107);
    int part = 0;
    const auto fail = [&](auto...) {
      if (part++ == failing) throw std::runtime_error("no disk");
    };
    BlockTable other(pool);
    append_open(other, tokens_from(50, 2));
    EXPECT_THROW(other.append(slots, fail, fail), std::runtime_error);
    EXPECT_EQ(part, failing + 1);
    EXPECT_EQ(other.num_tokens(), 2);
    EXPECT_EQ(pool->num_used(), 4);
    pool->check();
    append_straight(other, tokens_from(60, 90));
    EXPECT_EQ(other.num_tokens(), 92);
    pool->check();
  }
  ASSERT_TRUE(model.is_what(table));
}

TEST(OpenColumns, WhatCannotBeSealedIsNoNumber) {
  const auto pool = new_int4_pool(8);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 8));
  const ArrayView k = pool->open_blocks().k_open(1), v = pool->open_blocks().v_open(1);
  const std::int64_t slot = packed(table)[0] - 8;
  const auto put = [&](const ArrayView& view, std::int64_t row, std::int64_t d, float value) {
    const BFloat16 number = from_float<BFloat16>(value);
    std::memcpy(view.at(slot, row, 1, d), &number, sizeof number);
  };
  put(k, 2, 0, std::numeric_limits<float>::quiet_NaN());
  put(k, 1, 1, std::numeric_limits<float>::infinity());
  put(k, 0, 2, 1e6f);
  put(k, 0, 3, 65504.0f);  // 65536, rounded
  put(k, 1, 3, -30.0f);    // to which 65536 would have another grid
  put(v, 3, 1, -1e30f);
  append_open(table, tokens_from(20, 1));
  std::vector<float> keys(9 * 8), values(9 * 4);
  table.gather(1, 9, keys.data(), values.data());
  for (std::int64_t row = 0; row < 4; ++row) {
    for (std::int64_t d = 0; d < 4; ++d) {
      EXPECT_EQ(std::isnan(keys[row * 8 + 4 + d]), d < 3) << row << " " << d;
      EXPECT_FALSE(std::isnan(keys[row * 8 + d]));
    }
    EXPECT_EQ(std::isnan(values[row * 4 + 2]), row == 3);
  }
  EXPECT_EQ(keys[7], 65488.0f);
}

// A block of which a user has a reference as well is kept as it is.
TEST(OpenColumns, UsersKeepOpenBlocks) {
  const auto pool = new_int4_pool(8);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 6));
  const std::vector<std::int32_t> blocks = table.blocks();
  pool->retain(std::span(blocks).last(1));
  table.free();
  EXPECT_EQ(pool->stats().open_blocks, 1);
  pool->check();
  pool->release(std::span(blocks).last(1));
  EXPECT_EQ(pool->stats().open_blocks, 0);
  EXPECT_EQ(pool->allocate(8).size(), 8u);
  EXPECT_EQ(pool->stats().open_blocks, 0);
  pool->check();
}

std::vector<std::int64_t> ids_of(const Tokens& tokens) { return {tokens.begin(), tokens.end()}; }

TEST(OpenColumns, PrefixesAreSealed) {
  const auto pool = new_int4_pool(24);
  PrefixCache cache(pool);
  const Tokens tokens = tokens_from(0, 11);
  OpenSequence model(pool->geometry()), found_model(pool->geometry());
  {
    BlockTable table(pool);
    append_open(table, tokens);
    model.append(tokens);
    cache.insert(ids_of(tokens), table);
    ASSERT_TRUE(model.is_what(table));  // which still reads its last blocks open
    EXPECT_EQ(cache.size(), 2);         // of full blocks
    pool->check();
    append_open(table, tokens_from(60, 9));
    model.append(tokens_from(60, 9));
    ASSERT_TRUE(model.is_what(table));
    pool->check();
  }
  EXPECT_EQ(pool->stats().open_blocks, 0);
  // as a table that has read so far, and was shortened
  Tokens asked = tokens_from(0, 7);
  asked.push_back(999);
  found_model.append(tokens_from(0, 104));
  found_model.truncate(7);
  const auto found = cache.match(ids_of(asked));
  ASSERT_EQ(found->num_tokens(), 7);
  EXPECT_TRUE(found->explain()[1].is_open);
  EXPECT_EQ(pool->stats().open_blocks, 1);
  append_open(*found, tokens_from(80, 1));
  found_model.append(tokens_from(80, 1));  // which opens rows 4 to 6
  ASSERT_TRUE(found_model.is_what(*found));
  append_open(*found, tokens_from(81, 13));
  found_model.append(tokens_from(81, 13));
  ASSERT_TRUE(found_model.is_what(*found));
  pool->check();

  // a cache is no reason not to go on: what it has makes room for the copy of a sealed block
  const auto whole = cache.match(ids_of(tokens));
  ASSERT_EQ(whole->num_tokens(), 8);
  whole->truncate(6);
  std::vector<std::int32_t> rest = pool->allocate(pool->num_free());
  const std::vector<std::int32_t> blocks = whole->blocks();
  EXPECT_THROW(append_open(*whole, tokens_from(90, 1)), OutOfBlocks);
  EXPECT_EQ(whole->blocks(), blocks);
  EXPECT_EQ(cache.size(), 2);
  pool->release(std::span(rest).last(1));
  append_open(*whole, tokens_from(90, 1));
  EXPECT_EQ(whole->blocks()[1], rest.back());
  OpenSequence whole_model(pool->geometry());
  whole_model.append(tokens_from(0, 104));
  whole_model.truncate(6);
  whole_model.append(tokens_from(90, 1));
  ASSERT_TRUE(whole_model.is_what(*whole));
  pool->check();
}

}  // namespace
}  // namespace quire::testing
