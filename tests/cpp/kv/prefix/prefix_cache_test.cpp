// The prefix cache: what is found, shared, copied and given back, and what is refused.
#include "quire/kv/prefix/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kv/prefix/prefix_cache_fixture.h"
#include "kv/prefix/prefix_rows.h"

namespace quire::testing {
namespace {

TEST_F(PrefixCacheTest, AnEmptyCacheGivesAnEmptyTable) {
  EXPECT_EQ(cache.match({})->num_tokens(), 0);
  EXPECT_EQ(cache.match(count_from(0, 9))->num_tokens(), 0);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(pool->num_used(), 0);
}

TEST_F(PrefixCacheTest, WholeBlocksAreSharedByAnyNumberOfTables) {
  const Ids prompt = count_from(100, 8);
  const auto first = serve(cache, prompt + Ids{1});
  const auto second = cache.match(prompt + Ids{2, 3});
  const auto third = cache.match(prompt + Ids{4});
  EXPECT_EQ(second->num_tokens(), 8);
  EXPECT_EQ(second->blocks(), third->blocks());
  EXPECT_EQ(second->blocks()[1], first->blocks()[1]);
  EXPECT_EQ(pool->ref_count(first->blocks()[0]), 4);  // three tables and the cache
  append_rest(*second, prompt + Ids{2, 3});
  append_rest(*third, prompt + Ids{4});
  EXPECT_TRUE(holds_ids(*first, prompt + Ids{1}));
  EXPECT_TRUE(holds_ids(*second, prompt + Ids{2, 3}));
  EXPECT_TRUE(holds_ids(*third, prompt + Ids{4}));
  EXPECT_EQ(pool->stats().copies_on_write, 0);
}

TEST_F(PrefixCacheTest, AllButTheLastTokenAtMost) {
  const Ids prompt = count_from(0, 8);
  serve(cache, prompt);
  EXPECT_EQ(found(prompt), 7);
  EXPECT_EQ(found(prompt + Ids{9}), 8);
  EXPECT_EQ(found({0}), 0);
  EXPECT_EQ(found({0, 1}), 1);
  EXPECT_EQ(found(count_from(0, 5)), 4);
}

TEST_F(PrefixCacheTest, RowsOfABlockThatBeginsAlikeAreCopied) {
  serve(cache, {1, 2, 3, 4, 5, 6, 7, 8});
  const Ids other = {1, 2, 3, 4, 5, 6, 0, 0, 0};
  const auto table = cache.match(other);
  ASSERT_EQ(table->num_tokens(), 6);
  EXPECT_EQ(pool->ref_count(table->blocks()[1]), 1);
  append_rest(*table, other);
  EXPECT_TRUE(holds_ids(*table, other));
  EXPECT_EQ(found({1, 2, 3, 4, 5, 6, 7, 8, 9}), 8);
}

TEST_F(PrefixCacheTest, TheChildThatBeginsMostAlikeIsTaken) {
  for (std::int64_t a = 0; a < 3; ++a) {
    for (std::int64_t b = 0; b < 3; ++b) serve(cache, {7, a, b, 5});
  }
  EXPECT_EQ(found({7, 1, 2, 5, 0}), 4);
  EXPECT_EQ(found({7, 1, 2, 4, 0}), 3);
  EXPECT_EQ(found({7, 1, 9, 5, 0}), 2);
  EXPECT_EQ(found({7, 9, 9, 5, 0}), 1);
  EXPECT_EQ(found({8, 0, 0, 5, 0}), 0);
}

TEST_F(PrefixCacheTest, APartOfABlockIsMatchableAsFarAsItWasInserted) {
  const Ids ids = count_from(0, 10);
  auto table = cache.match(ids);
  append_rest(*table, ids);
  cache.insert(TokenIds(ids).first(6), *table);
  EXPECT_EQ(cache.size(), 2);
  EXPECT_EQ(found(ids), 6);
  cache.insert(ids, *table);
  EXPECT_EQ(cache.size(), 3);  // the longer one instead of the part
  EXPECT_EQ(found(ids), 9);
  cache.insert(TokenIds(ids).first(5), *table);  // known already
  EXPECT_EQ(cache.size(), 3);
}

TEST_F(PrefixCacheTest, ATableThatGoesOnCopiesTheBlockThatItInsertedInPart) {
  const Ids ids = count_from(0, 6);
  const auto table = serve(cache, ids);
  const std::int32_t last = table->blocks()[1];
  append_rest(*table, ids + Ids{50, 51});
  EXPECT_NE(table->blocks()[1], last);
  EXPECT_EQ(pool->stats().copies_on_write, 1);
  EXPECT_TRUE(holds_ids(*table, ids + Ids{50, 51}));
  EXPECT_EQ(found(ids + Ids{60}), 6);
  cache.insert(ids + Ids{50, 51}, *table);
  EXPECT_EQ(found(ids + Ids{50, 51, 0}), 8);
  EXPECT_EQ(found(ids + Ids{50, 60}), 7);
  EXPECT_EQ(cache.size(), 2);
}

TEST_F(PrefixCacheTest, ATableThatRollsBackLeavesTheCacheAlone) {
  const Ids ids = count_from(0, 8);
  const auto table = serve(cache, ids);
  table->truncate(5);
  append_rest(*table, {0, 1, 2, 3, 4, 77, 78});
  EXPECT_TRUE(holds_ids(*table, {0, 1, 2, 3, 4, 77, 78}));
  EXPECT_EQ(found(ids + Ids{1}), 8);
}

TEST_F(PrefixCacheTest, NamespacesNeverShare) {
  const Ids ids = count_from(0, 9);
  const std::vector<std::string> spaces = {"", "a", "ab", "b", std::string("a\0", 2), "\xff"};
  for (const std::string& space : spaces) {
    EXPECT_EQ(found(ids, space), 0);
    serve(cache, ids, space)->free();
    cache.evict(1);  // the tail: six sequences do not fit otherwise
    EXPECT_EQ(found(ids, space), 8);
  }
  EXPECT_EQ(cache.size(), 2 * 6);
}

TEST_F(PrefixCacheTest, ATableInTwoNamespacesIsFreedByBoth) {
  const Ids ids = count_from(0, 8);
  {
    const auto table = serve(cache, ids);
    cache.insert(ids, *table, "other");
    EXPECT_EQ(cache.size(), 4);
    EXPECT_EQ(pool->stats().cached, 0);
    pool->check();
  }
  EXPECT_EQ(pool->stats().cached, 2);
  EXPECT_EQ(cache.evict(1), 1);
  pool->check();
  EXPECT_EQ(cache.evict(5), 1);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(pool->num_free(), 16);
}

TEST_F(PrefixCacheTest, TokenIdsOfAllSizes) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const Ids wide = {most, std::int64_t{1} << 32, 5, most};
  const Ids narrow = {0xffffffff, 0, 5, 6};  // the same low halves
  serve(cache, wide);
  EXPECT_EQ(found(narrow + Ids{1}), 0);
  EXPECT_EQ(found(wide + Ids{1}), 4);
  serve(cache, narrow);
  EXPECT_EQ(found(narrow + Ids{1}), 4);
  EXPECT_EQ(found({most, std::int64_t{1} << 32, 6, 1}), 2);
}

// Engines mark images and other things that have no token by ids below 0.
TEST_F(PrefixCacheTest, IdsBelowZeroAreIds) {
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
  const Ids below = {-1, -2, least, 7};
  const Ids same_low_halves = {0xffffffff, 0xfffffffe, 0, 7};
  serve(cache, below + Ids{-5, -6});
  EXPECT_EQ(found(same_low_halves + Ids{1}), 0);
  EXPECT_EQ(found(below + Ids{-5, -7, 1}), 5);
  serve(cache, same_low_halves);
  EXPECT_EQ(found(same_low_halves + Ids{1}), 4);
  EXPECT_EQ(found(below + Ids{-5, -6, 1}), 6);
  EXPECT_EQ(found({-1, -2, least + 1, 7, 1}), 2);
  EXPECT_EQ(found({-1}), 0);
}

TEST_F(PrefixCacheTest, ThePoolTakesTheLeastRecentlyUsedFromTheEnd) {
  serve(cache, count_from(0, 8));
  serve(cache, count_from(100, 8));
  serve(cache, count_from(200, 8));
  EXPECT_EQ(pool->stats().cached, 6);
  EXPECT_EQ(found(count_from(0, 9)), 8);  // used again
  const auto ids = pool->allocate(10 + 1);
  EXPECT_EQ(cache.stats().evictions, 1);
  EXPECT_EQ(found(count_from(100, 5)), 4);  // its end is gone; used again
  const auto more = pool->allocate(2);
  EXPECT_EQ(found(count_from(0, 9)), 8);
  EXPECT_EQ(found(count_from(100, 9)), 4);
  EXPECT_EQ(found(count_from(200, 9)), 0);
  EXPECT_EQ(pool->num_free(), 0);
  pool->release(ids);
  pool->release(more);
}

TEST_F(PrefixCacheTest, WhatATableHoldsStays) {
  const auto table = serve(cache, count_from(0, 8));
  serve(cache, count_from(100, 4));
  EXPECT_EQ(
      message_of<OutOfBlocks>([&] { pool->allocate(15); }),
      "BlockPool.allocate: n: got 15, which takes 15 blocks, expected at most the 13 free and "
      "1 cached");
  EXPECT_EQ(cache.size(), 3);
  EXPECT_EQ(cache.evict(100), 1);
  EXPECT_EQ(cache.evict(100), 0);
  EXPECT_EQ(found(count_from(0, 9)), 8);
}

// The second sequence hangs below the first one's block, which it does not hold itself.
TEST_F(PrefixCacheTest, AnIdleBlockAboveAHeldOneGoesLastAndTakesItAlong) {
  auto first = cache.match({});
  append_rest(*first, count_from(0, 4));
  auto second = cache.match({});
  append_rest(*second, count_from(0, 8));
  cache.insert(count_from(0, 4), *first);
  cache.insert(count_from(0, 8), *second);
  EXPECT_EQ(cache.size(), 2);
  first.reset();
  serve(cache, count_from(100, 4));
  EXPECT_EQ(pool->stats().cached, 2);
  EXPECT_EQ(cache.evict(1), 1);  // the younger, as it has no children
  EXPECT_EQ(found(count_from(100, 5)), 0);
  EXPECT_EQ(found(count_from(0, 9)), 8);
  pool->check();
  EXPECT_EQ(cache.evict(1), 1);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_TRUE(holds_ids(*second, count_from(0, 8)));
  EXPECT_EQ(pool->num_used(), 2);
}

TEST_F(PrefixCacheTest, RoomForACopyIsMadeByForgetting) {
  const Ids ids = count_from(0, 6);
  const auto table = serve(cache, ids);
  const auto rest = pool->allocate(14);
  append_rest(*table, ids + Ids{6, 7});  // neither a block for the copy, nor one to evict
  EXPECT_TRUE(holds_ids(*table, count_from(0, 8)));
  EXPECT_EQ(pool->stats().copies_on_write, 0);
  EXPECT_EQ(found(ids + Ids{9}), 4);
  EXPECT_THROW(table->extend(1), OutOfBlocks);
  pool->release(rest);
}

TEST_F(PrefixCacheTest, AMatchWithoutRoomForItsCopyChangesNothing) {
  serve(cache, count_from(0, 8));
  const auto rest = pool->allocate(14);
  // both cached blocks are needed for the match itself
  const PrefixCacheStats before = cache.stats();
  EXPECT_EQ(message_of<OutOfBlocks>([&] { cache.match(Ids{0, 1, 2, 3, 4, 5, 9}); }),
            "PrefixCache.match: token_ids: got 6 cached tokens, the last 2 of which take a block, "
            "expected one free or cached");
  EXPECT_EQ(cache.size(), 2);
  EXPECT_EQ(pool->stats().cached, 2);
  EXPECT_EQ(cache.stats().hits, before.hits);
  EXPECT_EQ(cache.stats().tokens_asked, before.tokens_asked);
  EXPECT_EQ(found({0, 1, 2, 3, 9}), 4);  // needs no block
  pool->release(std::vector<std::int32_t>{rest[0]});
  EXPECT_EQ(found({0, 1, 2, 3, 4, 5, 9}), 6);
  EXPECT_EQ(cache.size(), 2);
  pool->release(std::vector<std::int32_t>(rest.begin() + 1, rest.end()));
}

TEST_F(PrefixCacheTest, MaxBlocks) {
  PrefixCache small(pool, 3);
  EXPECT_EQ(small.max_blocks(), 3);
  {
    const auto table = serve(small, count_from(0, 20));
    EXPECT_EQ(small.size(), 3);  // all in use: the first ones
    const auto other = serve(small, count_from(100, 4));
    EXPECT_EQ(small.size(), 3);
    EXPECT_EQ(small.match(count_from(100, 5))->num_tokens(), 0);
  }
  EXPECT_EQ(pool->stats().used, 3);
  serve(small, count_from(100, 8));
  EXPECT_EQ(small.size(), 3);
  EXPECT_EQ(small.match(count_from(0, 9))->num_tokens(), 4);
  EXPECT_EQ(small.match(count_from(100, 9))->num_tokens(), 8);
  EXPECT_EQ(small.stats().evictions, 2);
  PrefixCache none(pool, 0);
  serve(none, count_from(0, 8));
  EXPECT_EQ(none.size(), 0);
  EXPECT_EQ(none.match(count_from(0, 8))->num_tokens(), 0);
  EXPECT_EQ(none.stats().misses_by_reason.evicted, 1);
  EXPECT_EQ(message_of<ValueError>([&] { PrefixCache(pool, -1); }),
            "PrefixCache: max_blocks: got -1, expected >= 0");
}

TEST_F(PrefixCacheTest, TwoCachesOfOnePool) {
  const Ids ids = count_from(0, 8);
  auto other = std::make_optional<PrefixCache>(pool);
  {
    const auto table = serve(cache, ids);
    other->insert(ids, *table);
  }
  EXPECT_EQ(pool->stats().cached, 2);
  const auto rest = pool->allocate(15);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(other->size(), 1);
  pool->check();
  other.reset();
  EXPECT_EQ(pool->num_free(), 1);
  pool->release(rest);
}

TEST_F(PrefixCacheTest, ClearForgetsAll) {
  const auto table = serve(cache, count_from(0, 9));
  serve(cache, count_from(100, 9), "a");
  cache.clear();
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(pool->num_used(), 3);
  EXPECT_EQ(pool->stats().cached, 0);
  EXPECT_EQ(found(count_from(0, 9)), 0);
  EXPECT_EQ(cache.stats().evictions, 0);
  EXPECT_EQ(cache.stats().misses_by_reason.cold, 3);
  EXPECT_TRUE(holds_ids(*table, count_from(0, 9)));
}

TEST_F(PrefixCacheTest, WhatIsMissedAndWhy) {
  const Ids ids = count_from(0, 9);
  auto table = cache.match(ids);
  auto twin = cache.match(ids);  // asked for while the first is under way: nothing was lost
  EXPECT_EQ(cache.stats().misses_by_reason.cold, 2);
  twin->free();
  twin = cache.match(ids);  // what asked last was given up
  EXPECT_EQ(cache.stats().misses_by_reason.preempted, 1);
  append_rest(*table, ids);
  cache.insert(ids, *table);
  EXPECT_EQ(found(ids), 8);
  EXPECT_EQ(found(ids, "b"), 0);
  EXPECT_EQ(cache.stats().misses_by_reason.other_namespace, 1);
  EXPECT_EQ(found({9, 8, 7, 6}), 0);
  EXPECT_EQ(cache.stats().misses_by_reason.short_, 1);
  table->free();
  EXPECT_EQ(cache.evict(3), 3);
  EXPECT_EQ(found(ids), 0);
  EXPECT_EQ(cache.stats().misses_by_reason.evicted, 1);
  const PrefixCacheStats stats = cache.stats();
  EXPECT_EQ(stats.hits, 1);
  EXPECT_EQ(stats.misses, 6);
  EXPECT_EQ(stats.tokens_matched, 8);
  EXPECT_EQ(stats.tokens_asked, 6 * 9 + 4);
  EXPECT_EQ(stats.evictions, 3);
}

TEST_F(PrefixCacheTest, WhatIsRefusedChangesNothing) {
  const Ids ids = count_from(0, 6);
  const auto table = serve(cache, ids);
  const auto freed = cache.match(ids);
  freed->free();
  BlockTable foreign(new_pool(2, kBlock));
  const auto says = [&](const Ids& tokens, const BlockTable& of) {
    return message_of<ValueError>([&] { cache.insert(tokens, of); });
  };
  EXPECT_EQ(says(count_from(0, 7), *table),
            "PrefixCache.insert: token_ids: got 7 tokens, expected at most the table's 6");
  EXPECT_EQ(says({}, *freed), "PrefixCache.insert: table: got a freed one, expected one in use");
  EXPECT_EQ(says({}, foreign),
            "PrefixCache.insert: table: got one of another pool, expected the cache's");
  EXPECT_EQ(message_of<ValueError>([&] { cache.evict(-1); }),
            "PrefixCache.evict: num_blocks: got -1, expected >= 0");
  EXPECT_EQ(cache.size(), 2);
  cache.insert({}, *table);
  EXPECT_EQ(cache.size(), 2);
}

TEST(PrefixCacheShapes, BlocksOfOneTokenAndOneBlock) {
  for (const std::int64_t block_size : {1, 2, 64}) {
    const auto pool = new_pool(40, block_size);
    PrefixCache cache(pool);
    serve(cache, count_from(0, 12));
    serve(cache, count_from(0, 9) + Ids{99, 98});
    const auto table = cache.match(count_from(0, 9) + Ids{99, 1, 2});
    EXPECT_EQ(table->num_tokens(), 10);
    EXPECT_TRUE(holds_ids(*table, count_from(0, 9) + Ids{99}));
    pool->check();
  }
}

}  // namespace
}  // namespace quire::testing
