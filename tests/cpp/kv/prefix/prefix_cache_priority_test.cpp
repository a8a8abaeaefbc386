// What has a higher priority stays longer, whatever was used last.
#include <gtest/gtest.h>

#include <string>

#include "kv/prefix/prefix_cache_fixture.h"
#include "kv/prefix/prefix_rows.h"

namespace quire::testing {
namespace {

// Caches a prompt that nobody holds afterwards.
void leave(PrefixCache& cache, const Ids& ids, std::int64_t priority) {
  const auto table = cache.match(ids);
  append_rest(*table, ids);
  cache.insert(ids, *table, "", priority);
}

TEST_F(PrefixCacheTest, TheLowestPriorityGoesFirstWhateverWasUsedLast) {
  const Ids high = count_from(0, 8), low = count_from(50, 8), plain = count_from(100, 8);
  leave(cache, high, 7);
  leave(cache, plain, 0);
  leave(cache, low, -3);
  EXPECT_EQ(cache.evict(2), 2);
  EXPECT_EQ(cache.peek(low + Ids{1}), 0);
  EXPECT_EQ(cache.evict(1), 1);
  EXPECT_EQ(cache.peek(plain + Ids{1}), 4);
  EXPECT_EQ(cache.evict(1), 1);
  EXPECT_EQ(cache.peek(plain + Ids{1}), 0);
  EXPECT_EQ(found(high + Ids{1}), 8);
  EXPECT_EQ(cache.evict(100), 2);
}

TEST_F(PrefixCacheTest, OfOnePriorityThatUsedLastStaysLonger) {
  leave(cache, count_from(0, 4), 7);
  leave(cache, count_from(50, 4), 7);
  EXPECT_EQ(found(count_from(0, 5)), 4);
  EXPECT_EQ(cache.evict(1), 1);
  EXPECT_EQ(cache.peek(count_from(0, 5)), 4);
}

// A question after a system prompt that others have inserted with a higher priority.
TEST_F(PrefixCacheTest, ABlockHasTheHighestOfItsPriorities) {
  const Ids system = count_from(0, 8);
  leave(cache, system, 7);
  leave(cache, system + count_from(90, 8), -7);
  leave(cache, count_from(50, 8), 0);
  EXPECT_EQ(cache.evict(4), 4);
  EXPECT_EQ(found(system + Ids{1}), 8);
  // also where a longer one takes a block's place
  EXPECT_EQ(cache.evict(100), 2);
  leave(cache, count_from(0, 2), 7);
  leave(cache, count_from(0, 3), 0);
  leave(cache, count_from(50, 4), 1);
  EXPECT_EQ(cache.evict(1), 1);
  EXPECT_EQ(found(count_from(0, 4)), 3);
  // what was evicted begins anew
  EXPECT_EQ(cache.evict(100), 1);
  leave(cache, count_from(0, 4), 0);
  leave(cache, count_from(50, 4), 1);
  EXPECT_EQ(cache.evict(1), 1);
  EXPECT_EQ(cache.peek(count_from(0, 5)), 0);
}

TEST_F(PrefixCacheTest, ABeginningStaysAsLongAsWhatFollows) {
  leave(cache, count_from(0, 4), -7);
  leave(cache, count_from(0, 8), 7);  // and so has the beginning
  leave(cache, count_from(50, 4), 1);
  EXPECT_EQ(cache.evict(1), 1);
  EXPECT_EQ(found(count_from(0, 9)), 8);
  cache.clear();
  const auto table = serve(cache, count_from(0, 8));
  cache.insert(count_from(0, 4), *table, "", 7);
  table->free();
  leave(cache, count_from(50, 4), 1);
  EXPECT_EQ(cache.evict(2), 2);  // the end of the first, and the other
  EXPECT_EQ(found(count_from(0, 9)), 4);
}

TEST_F(PrefixCacheTest, WhatIsInUseTakesTheRoomOfAnyPriority) {
  leave(cache, count_from(0, 60), 100);
  const auto blocks = pool->allocate(16);
  EXPECT_EQ(cache.size(), 0);
  pool->release(blocks);
}

TEST_F(PrefixCacheTest, AnotherNumberIsNoPriority) {
  const auto table = serve(cache, count_from(0, 4));
  for (const std::int64_t wrong : {-101, 101}) {
    EXPECT_EQ(message_of<ValueError>([&] { cache.insert(count_from(0, 4), *table, "", wrong); }),
              concat("PrefixCache.insert: priority: got ", wrong, ", expected -100 to 100"));
  }
}

}  // namespace
}  // namespace quire::testing
