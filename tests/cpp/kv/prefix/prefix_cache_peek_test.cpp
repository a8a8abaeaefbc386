// What a match would find, without one.
#include <gtest/gtest.h>

#include "kv/prefix/prefix_cache_fixture.h"
#include "kv/prefix/prefix_rows.h"

namespace quire::testing {
namespace {

TEST_F(PrefixCacheTest, PeekSaysWhatAMatchWouldFind) {
  EXPECT_EQ(cache.peek(Ids{}), 0);
  const Ids prompt = count_from(0, 8);
  serve(cache, prompt + Ids{20, 21});
  serve(cache, prompt, "other");
  EXPECT_EQ(cache.peek(prompt), 7);
  EXPECT_EQ(cache.peek(prompt + Ids{1}), 8);
  EXPECT_EQ(cache.peek(prompt + Ids{20, 9, 9, 9}), 9);
  EXPECT_EQ(cache.peek(prompt + Ids{20, 21, 9}, "other"), 8);
  EXPECT_EQ(cache.peek(prompt, "third"), 0);
  const PrefixCacheStats stats = cache.stats();
  EXPECT_EQ(stats.hits + stats.misses, 2);  // those of serve
}

TEST_F(PrefixCacheTest, PeekTakesNothingAndTouchesNothing) {
  serve(cache, {1, 1, 1, 1});
  serve(cache, {2, 2, 2, 2});
  const std::int64_t free = pool->num_free();
  EXPECT_EQ(cache.peek(Ids{1, 1, 1, 1, 0}), 4);
  EXPECT_EQ(pool->num_free(), free);
  EXPECT_EQ(pool->stats().cached, 2);
  cache.evict(1);
  EXPECT_EQ(cache.peek(Ids{1, 1, 1, 1, 0}), 0);  // still the one used longest ago
  EXPECT_EQ(cache.peek(Ids{2, 2, 2, 2, 0}), 4);
}

}  // namespace
}  // namespace quire::testing
