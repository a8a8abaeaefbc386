// One pool and one prefix cache used from several threads at once; for ThreadSanitizer above all.
// Of float32, and of quantised dtypes with open blocks, which threads seal, open and copy too.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kv/prefix/prefix_rows.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "support/run_threads.h"

namespace quire::testing {
namespace {

constexpr int kThreads = 8;

using Kind = std::optional<OpenKind>;  // or float32

std::string name_of(const ::testing::TestParamInfo<Kind>& info) {
  return info.param ? name_of_kind(*info.param) : "float32";
}

class PrefixCacheConcurrency : public ::testing::TestWithParam<Kind> {
 protected:
  static std::shared_ptr<BlockPool> new_pool_of(std::int64_t num_blocks, std::int64_t block_size) {
    return GetParam() ? new_open_pool(*GetParam(), num_blocks, block_size)
                      : new_pool(num_blocks, block_size);
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, PrefixCacheConcurrency,
                         ::testing::Values(Kind{}, Kind{{DType::int4, 2}}, Kind{{DType::int8, 1}}),
                         name_of);

// Each thread serves prompts that begin alike, in a pool too small for all: what is matched is
// always what was computed for just those tokens, whoever computed, shares, copies or evicts it.
TEST_P(PrefixCacheConcurrency, EveryMatchHoldsItsOwnRows) {
  const auto pool = new_pool_of(96, 4);
  PrefixCache cache(pool, 60);
  std::atomic<std::int64_t> asked{0}, matched{0};
  run_threads(kThreads, [&](int worker) {
    std::mt19937 random(worker);
    std::vector<std::shared_ptr<BlockTable>> mine;
    for (int step = 0; step < 500; ++step) {
      const std::string space = random() % 4 == 0 ? "other" : "";
      Ids ids;
      for (std::size_t length = 1 + random() % 24; ids.size() < length;) {
        ids.push_back(random() % 8 == 0 ? random() % 3 : 0);
      }
      try {
        auto table = cache.match(ids, space);
        const auto length = table->num_tokens();
        asked += static_cast<std::int64_t>(ids.size());
        matched += length;
        ASSERT_LT(length, static_cast<std::int64_t>(ids.size()));
        ASSERT_TRUE(holds_ids(*table, {ids.begin(), ids.begin() + length}, space));
        append_rest(*table, ids, space);
        cache.insert(ids, *table, space);
        ASSERT_TRUE(holds_ids(*table, ids, space));
        mine.push_back(std::move(table));
      } catch (const OutOfBlocks&) {
        mine.clear();
      }
      if (mine.size() > 3) mine.erase(mine.begin() + random() % mine.size());
      const Ids pinned = {0, 0, 0, 0, 0, worker};
      try {
        cache.pin(pinned);
        cache.unpin(pinned);
      } catch (const ValueError&) {  // nothing was there, or all has been cleared
      }
      ASSERT_GE(cache.peek(ids), 0);
      if (step % 50 == worker) cache.evict(4);
      if (step % 100 == 10 * worker) cache.clear();
      if (step % 64 == 0) pool->check();
    }
  });
  const PrefixCacheStats stats = cache.stats();
  EXPECT_EQ(stats.tokens_matched, matched);
  EXPECT_EQ(stats.tokens_asked, asked);
  EXPECT_GT(stats.hits, 0);
  EXPECT_GT(stats.evictions, 0);
  EXPECT_EQ(pool->stats().used, pool->stats().cached);
  pool->check();
  cache.clear();
  EXPECT_EQ(pool->num_free(), 96);
  EXPECT_EQ(pool->stats().open_blocks, 0);
}

// All together may want more than the pool has, and each gives back what it took soon: until then
// an allocation is tried again.
template <class Take>
auto when_there_is_room(Take take) {
  for (;; std::this_thread::yield()) {
    try {
      return take();
    } catch (const OutOfBlocks&) {
      continue;
    }
  }
}

// All match one block in the same moment, while it is the only one that could be evicted: nobody
// copies from a block that has been given to another.
TEST_P(PrefixCacheConcurrency, TheBlockThatIsCopiedFromStays) {
  const auto pool = new_pool_of(kThreads + 1, 8);
  PrefixCache cache(pool);
  const Ids ids = count_from(1, 8);
  for (int round = 0; round < 100; ++round) {
    serve(cache, ids);
    std::atomic<int> ready{0};
    run_threads(kThreads, [&](int worker) {
      for (++ready; ready < kThreads;) std::this_thread::yield();
      if (worker % 2 == 0) {
        const auto table =
            when_there_is_room([&] { return cache.match(count_from(1, 6) + Ids{0, 0}); });
        ASSERT_TRUE(holds_ids(*table, count_from(1, table->num_tokens())));
      } else {
        BlockTable other(pool);
        when_there_is_room([&] { append_tokens(other, {7, 7}); });
        const auto blocks = when_there_is_room([&] { return pool->allocate(1); });
        ASSERT_TRUE(holds_tokens(other, {7, 7}));
        pool->release(blocks);
        if (worker == 1) cache.evict(1);
      }
    });
    pool->check();
  }
}

// One table that is extended, inserted, rolled back and freed by all.
TEST_P(PrefixCacheConcurrency, OneTableForAll) {
  const auto pool = new_pool_of(64, 4);
  PrefixCache cache(pool);
  BlockTable table(pool);
  run_threads(kThreads, [&](int worker) {
    for (int step = 0; step < 300; ++step) {
      const Ids ids(1 + step % 9, 5);
      try {
        if (worker < 2) {
          append_tokens(table, {5, 5});
        } else if (worker == 2 && step % 4 == 0) {
          table.truncate(0);
        } else if (worker < 6) {
          cache.insert(ids, table);
        } else {
          const auto match = cache.match(ids);
          ASSERT_TRUE(holds_tokens(*match, std::vector<std::uint32_t>(match->num_tokens(), 5)));
        }
      } catch (const OutOfBlocks&) {
        table.truncate(0);
      } catch (const ValueError&) {  // more ids than the table had tokens just then
      }
    }
  });
  table.free();
  pool->check();
  cache.clear();
  EXPECT_EQ(pool->num_free(), 64);
  EXPECT_EQ(pool->stats().open_blocks, 0);
}

}  // namespace
}  // namespace quire::testing
