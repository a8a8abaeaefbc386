// Sequences with holes in a prefix cache, and matches with a window.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kv/prefix/prefix_cache_fixture.h"
#include "kv/prefix/prefix_rows.h"

namespace quire::testing {
namespace {

using Blocks = std::vector<std::int32_t>;

class PrefixCacheWindowTest : public PrefixCacheTest {
 protected:
  // A table of these ids whose blocks before `position` were dropped.
  std::shared_ptr<BlockTable> windowed(const Ids& ids, std::int64_t position,
                                       std::int64_t sinks = 0) {
    auto table = std::make_shared<BlockTable>(pool);
    append_rest(*table, ids);
    table->drop_before(position, sinks);
    return table;
  }
};

TEST_F(PrefixCacheWindowTest, ATableWithHolesIsFoundByAWindow) {
  const Ids ids = count_from(0, 22);
  auto table = windowed(ids, 12);
  const Blocks blocks = table->blocks();  // [-1, -1, -1, 3, 4, 5]
  cache.insert(ids, *table);
  EXPECT_EQ(cache.size(), 3);
  table->free();
  EXPECT_EQ(pool->stats().cached, 3);

  EXPECT_EQ(found(ids + Ids{99}), 0);  // without a window all is needed
  const auto match = cache.match(ids + Ids{99}, "", {9});
  EXPECT_EQ(match->num_tokens(), 22);
  EXPECT_TRUE(holds_ids_but_holes(*match, ids));
  Blocks shared = match->blocks();
  shared.pop_back();  // of the rows that were copied
  EXPECT_EQ(shared, (Blocks{-1, -1, -1, blocks[3], blocks[4]}));
  append_rest(*match, ids + Ids{99, 98, 97});
  EXPECT_TRUE(holds_ids_but_holes(*match, ids + Ids{99, 98, 97}));
  EXPECT_EQ(cache.peek(ids + Ids{99}, "", {11}), 22);  // tokens 12 to 21
  EXPECT_EQ(cache.peek(ids + Ids{99}, "", {12}), 0);
  EXPECT_EQ(cache.peek(ids, "", {9}), 21);
  EXPECT_EQ(cache.peek(count_from(0, 12) + Ids{99}, "", {1}), 12);
}

TEST_F(PrefixCacheWindowTest, SinkTokensAreNeededToo) {
  const Ids ids = count_from(0, 20);
  cache.insert(ids, *windowed(ids, 12, 2));
  EXPECT_EQ(cache.match(ids + Ids{1}, "", {8, 4})->blocks(), (Blocks{0, -1, -1, 3, 4}));
  EXPECT_EQ(cache.match(ids + Ids{1}, "", {8})->blocks(), (Blocks{-1, -1, -1, 3, 4}));
  EXPECT_EQ(cache.match(ids + Ids{1}, "", {8, 5})->blocks(), (Blocks{0}));
  EXPECT_EQ(cache.match(ids + Ids{1})->blocks(), (Blocks{0}));
}

// Nobody holds what no query sees: it can be evicted, and the table does not read it.
TEST_F(PrefixCacheWindowTest, AWindowLeavesOutWhatItDoesNotSee) {
  serve(cache, count_from(0, 20));
  const auto match = cache.match(count_from(0, 21), "", {5});
  EXPECT_EQ(match->blocks(), (Blocks{-1, -1, -1, -1, 4}));
  EXPECT_EQ(pool->stats().cached, 4);
}

TEST_F(PrefixCacheWindowTest, HolesAreFilledByWhoHasTheBlocks) {
  const Ids ids = count_from(0, 16);
  const auto first = windowed(ids, 8);
  cache.insert(ids, *first);
  EXPECT_EQ(found(ids + Ids{1}), 0);
  const auto second = windowed(ids, 0);
  cache.insert(count_from(0, 8), *second);
  EXPECT_EQ(cache.size(), 4);
  EXPECT_EQ(found(ids + Ids{1}), 16);
  cache.insert(ids, *windowed(ids, 16));  // nothing but holes changes nothing
  EXPECT_EQ(cache.size(), 4);
}

TEST_F(PrefixCacheWindowTest, HolesGoWithTheLastThatStandsBelowThem) {
  const Ids ids = count_from(0, 16);
  auto table = windowed(ids, 12);
  cache.insert(ids, *table);
  cache.insert(count_from(0, 12), *table);  // holes alone lead nowhere
  EXPECT_EQ(cache.size(), 1);
  table->free();
  EXPECT_EQ(cache.evict(5), 1);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(cache.peek(ids + Ids{1}, "", {1}), 0);
  EXPECT_EQ(pool->num_free(), 16);
}

TEST_F(PrefixCacheWindowTest, ABranchOffHoles) {
  const Ids ids = count_from(0, 16);
  const Ids other = count_from(0, 8) + count_from(100, 8);
  cache.insert(ids, *windowed(ids, 8));
  cache.insert(other, *windowed(other, 8));
  EXPECT_EQ(cache.size(), 4);
  EXPECT_EQ(cache.peek(ids + Ids{1}, "", {8}), 16);
  EXPECT_EQ(cache.peek(other + Ids{1}, "", {8}), 16);
  EXPECT_EQ(cache.evict(2), 2);
  EXPECT_EQ(cache.peek(ids + Ids{1}, "", {8}), 0);
  EXPECT_EQ(cache.peek(other + Ids{1}, "", {8}), 16);
}

TEST_F(PrefixCacheWindowTest, MaxBlocksCountsNoHoles) {
  PrefixCache small(pool, 2);
  const Ids ids = count_from(0, 20);
  const auto table = windowed(ids, 12);
  small.insert(ids, *table);
  EXPECT_EQ(small.size(), 2);
  EXPECT_EQ(small.peek(ids + Ids{1}, "", {8}), 20);
  const auto whole = windowed(ids, 0);
  small.insert(ids, *whole);  // no room to fill a hole: the others are in use
  EXPECT_EQ(small.size(), 2);
  PrefixCache none(pool, 0);
  none.insert(ids, *table);
  EXPECT_EQ(none.size(), 0);
}

TEST_F(PrefixCacheWindowTest, APinnedPartOfABlockIsNoHole) {
  serve(cache, count_from(0, 6));
  cache.pin(count_from(0, 6));
  const Ids ids = count_from(0, 12);
  cache.insert(ids, *windowed(ids, 8));  // would replace the pinned one by a hole
  EXPECT_EQ(cache.peek(count_from(0, 7)), 6);
  EXPECT_EQ(cache.peek(ids + Ids{1}, "", {4}), 6);
  cache.unpin(count_from(0, 6));
  cache.insert(ids, *windowed(ids, 8));
  EXPECT_EQ(cache.peek(ids + Ids{1}, "", {4}), 12);
  EXPECT_EQ(cache.peek(ids + Ids{1}), 4);
}

// Of a tree with holes, what can be told without them.
TEST_F(PrefixCacheWindowTest, ASnapshotEndsBeforeHoles) {
  const Ids ids = count_from(0, 12);
  cache.insert(ids, *windowed(ids, 8, 1));
  serve(cache, count_from(50, 8));
  const PrefixSnapshot snapshot = cache.snapshot();
  EXPECT_EQ(snapshot.nodes.size(), 3u);  // the sink block, and two of the other sequence
  EXPECT_EQ(snapshot.ids.size(), 12u);
  std::vector<std::int32_t> held;
  for (const BlockRows& block : snapshot.blocks) held.push_back(block.id);
  pool->release(held);
}

TEST_F(PrefixCacheWindowTest, WhatIsRefused) {
  const Ids ids = count_from(0, 12);
  const auto table = windowed(ids, 0);
  const std::vector<std::int64_t> kept = {0, 1, 5, 9, 10, 11};
  table->keep(kept);
  EXPECT_THROW(cache.insert(count_from(0, 6), *table), ValueError);
  EXPECT_EQ(message_of<ValueError>([&] { cache.match(ids, "", {-1}); }),
            "PrefixCache.match: sliding_window: got -1, expected >= 1");
  EXPECT_EQ(message_of<ValueError>([&] { cache.peek(ids, "", {1, -1}); }),
            "PrefixCache.peek: num_sink_tokens: got -1, expected >= 0");
  EXPECT_EQ(cache.size(), 0);
}

// Of a pool with open blocks what is cached is sealed; columns before the window are holes as ever.
TEST(PrefixCacheWindow, InAPoolWithOpenBlocks) {
  const auto pool = new_open_pool({DType::int4, 2}, 16, 4);
  PrefixCache cache(pool);
  const Ids ids = count_from(0, 22);
  BlockTable table(pool);
  append_rest(table, ids);
  table.drop_before(9);
  cache.insert(ids, table);
  EXPECT_EQ(cache.size(), 3);  // full blocks
  const auto match = cache.match(ids, "", {8});
  EXPECT_EQ(match->num_tokens(), 20);
  EXPECT_EQ(match->blocks(), (Blocks{-1, -1, -1, table.blocks()[3], table.blocks()[4]}));
  append_rest(*match, ids);
  match->check();
  const auto shorter = cache.match(count_from(0, 18) + Ids{70, 71}, "", {4});
  EXPECT_EQ(shorter->num_tokens(), 18);  // two rows are copied
  append_rest(*shorter, count_from(0, 18) + Ids{70, 71});
  shorter->check();
  pool->check();
}

}  // namespace
}  // namespace quire::testing
