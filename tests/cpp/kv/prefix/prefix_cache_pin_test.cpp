// What is pinned stays, whatever the pool runs out of, and says so.
#include <gtest/gtest.h>

#include <string>

#include "kv/prefix/prefix_cache_fixture.h"
#include "kv/prefix/prefix_rows.h"

namespace quire::testing {
namespace {

TEST_F(PrefixCacheTest, WhatIsPinnedIsNotEvicted) {
  const Ids kept = count_from(0, 8);
  serve(cache, kept + Ids{90, 91});
  serve(cache, count_from(50, 8));
  EXPECT_EQ(cache.pin(kept), 8);
  EXPECT_EQ(pool->stats().pinned, 2);
  EXPECT_EQ(pool->stats().cached, 3);
  EXPECT_EQ(cache.evict(100), 3);
  EXPECT_EQ(found(kept + Ids{1}), 8);
  EXPECT_EQ(found(count_from(50, 8)), 0);
  cache.unpin(kept);
  EXPECT_EQ(pool->stats().pinned, 0);
  EXPECT_EQ(cache.evict(100), 2);
}

TEST_F(PrefixCacheTest, APoolThatIsPinnedFullSaysSo) {
  serve(cache, count_from(0, 60));
  const std::int64_t pinned = cache.pin(count_from(0, 60));
  EXPECT_EQ(pinned, 60);
  const Ids more = count_from(500, 8);
  auto table = cache.match(more);
  append_rest(*table, count_from(500, 4));
  const std::string expected = ", expected at most the 0 free, beside 15 pinned";
  EXPECT_EQ(message_of<OutOfBlocks>([&] { pool->allocate(2); }),
            "BlockPool.allocate: n: got 2, which takes 2 blocks" + expected);
  EXPECT_NE(message_of<OutOfBlocks>([&] { table->extend(1); }).find(expected), std::string::npos);
  EXPECT_EQ(message_of<OutOfBlocks>([&] { cache.match(count_from(0, 6)); }),
            "PrefixCache.match: token_ids: got 5 cached tokens, the last 1 of which take a block, "
            "expected one free or cached, beside 15 pinned");
  EXPECT_TRUE(holds_ids(*table, count_from(500, 4)));
  EXPECT_EQ(found(count_from(0, 61)), 60);
  cache.unpin(count_from(0, 60));
  table->extend(1);
}

TEST_F(PrefixCacheTest, ABlockThatBeginsAlikeIsKeptWithThePin) {
  serve(cache, count_from(0, 12));
  EXPECT_EQ(cache.pin(count_from(0, 6)), 6);
  EXPECT_EQ(cache.evict(100), 1);
  EXPECT_EQ(found(count_from(0, 9)), 8);
}

TEST_F(PrefixCacheTest, PinsAreCountedByTheirTokens) {
  serve(cache, count_from(0, 8));
  cache.pin(count_from(0, 8));
  cache.pin(count_from(0, 4));
  cache.pin(count_from(0, 4));
  cache.unpin(count_from(0, 8));
  EXPECT_EQ(cache.evict(100), 1);
  cache.unpin(count_from(0, 4));
  EXPECT_EQ(cache.evict(100), 0);
  cache.unpin(count_from(0, 4));
  EXPECT_EQ(cache.evict(100), 1);
}

// The latest pin of the same tokens goes first, so that the shorter one stays.
TEST_F(PrefixCacheTest, APinIsOfWhatWasCachedThen) {
  serve(cache, count_from(0, 4));
  EXPECT_EQ(cache.pin(count_from(0, 8)), 4);
  serve(cache, count_from(0, 8));
  EXPECT_EQ(cache.pin(count_from(0, 8)), 8);
  EXPECT_EQ(pool->stats().pinned, 2);
  cache.unpin(count_from(0, 8));
  EXPECT_EQ(pool->stats().pinned, 1);
  cache.unpin(count_from(0, 8));
  EXPECT_EQ(pool->stats().pinned, 0);
}

TEST_F(PrefixCacheTest, APinGoesOverToTheBlockThatHoldsMore) {
  serve(cache, count_from(0, 6));
  cache.pin(count_from(0, 6));
  serve(cache, count_from(0, 8));
  EXPECT_EQ(cache.size(), 2);
  EXPECT_EQ(pool->stats().pinned, 2);
  EXPECT_EQ(cache.evict(100), 0);
  EXPECT_EQ(found(count_from(0, 9)), 8);
  cache.unpin(count_from(0, 6));
  EXPECT_EQ(cache.evict(100), 2);
}

// A cache forgets a block for a table that goes on in it and finds no other, but not a pinned one.
TEST_F(PrefixCacheTest, APinnedBlockIsNotForgottenForItsTable) {
  const auto table = serve(cache, count_from(0, 6));
  cache.pin(count_from(0, 6));
  const auto held = pool->allocate(pool->num_free());
  EXPECT_THROW(table->extend(1), OutOfBlocks);
  EXPECT_EQ(cache.size(), 2);
  cache.unpin(count_from(0, 6));
  table->extend(1);
  EXPECT_EQ(cache.size(), 1);
  pool->release(held);
}

TEST_F(PrefixCacheTest, APinnedPlaceIsNotLeft) {
  const auto table = serve(cache, count_from(0, 4), "first");
  cache.pin(count_from(0, 4), "first");
  for (int i = 0; i < 2 * RadixTree::kMaxPlaces; ++i) {
    cache.insert(count_from(0, 4), *table, std::to_string(i));
  }
  EXPECT_EQ(cache.size(), RadixTree::kMaxPlaces);
  EXPECT_EQ(cache.peek(count_from(0, 5), "first"), 4);
  EXPECT_EQ(cache.peek(count_from(0, 5), "0"), 0);
}

TEST_F(PrefixCacheTest, ClearForgetsPins) {
  serve(cache, count_from(0, 8));
  cache.pin(count_from(0, 8));
  cache.clear();
  EXPECT_EQ(pool->num_free(), 16);
  EXPECT_EQ(pool->stats().pinned, 0);
  EXPECT_EQ(message_of<ValueError>([&] { cache.unpin(count_from(0, 8)); }),
            "PrefixCache.unpin: token_ids: got 8 tokens that are not pinned, expected those of a "
            "pin");
}

TEST_F(PrefixCacheTest, WhatCannotBePinned) {
  serve(cache, count_from(0, 8));
  EXPECT_EQ(message_of<ValueError>([&] { cache.pin(count_from(1, 3)); }),
            "PrefixCache.pin: token_ids: got 3 tokens, of which none is cached, expected the "
            "beginning of a cached sequence");
  EXPECT_THROW(cache.pin(Ids{}), ValueError);
  EXPECT_THROW(cache.pin(count_from(0, 8), "other"), ValueError);
  cache.pin(count_from(0, 8));
  EXPECT_THROW(cache.unpin(count_from(0, 4)), ValueError);
  EXPECT_THROW(cache.unpin(count_from(0, 8), "other"), ValueError);
  EXPECT_EQ(pool->stats().pinned, 2);
}

// Two caches of a pool, of which one pins what both hold.
TEST_F(PrefixCacheTest, APinOfOneCacheHoldsForAll) {
  PrefixCache other(pool);
  const auto table = serve(cache, count_from(0, 4));
  other.insert(count_from(0, 4), *table);
  table->free();
  cache.pin(count_from(0, 4));
  EXPECT_EQ(other.evict(100), 0);
  EXPECT_EQ(other.peek(count_from(0, 5)), 4);
  cache.clear();
  EXPECT_EQ(other.evict(100), 1);
}

}  // namespace
}  // namespace quire::testing
