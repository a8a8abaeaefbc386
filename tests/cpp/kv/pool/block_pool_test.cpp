// Allocation and references of users: all or nothing, whatever is wrong with the ids.
#include "quire/kv/pool/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <thread>
#include <vector>

#include "kv/table/token_rows.h"

namespace quire::testing {
namespace {

using Ids = std::vector<std::int32_t>;

// That `action` throws an E with this message and leaves every count as it was.
template <class E, class Action>
void expect_refused(const BlockPool& pool, Action&& action, const std::string& message) {
  const Ids before = pool.ref_counts();
  const std::int64_t free = pool.num_free();
  EXPECT_EQ(message_of<E>(action), message);
  EXPECT_EQ(pool.ref_counts(), before);
  EXPECT_EQ(pool.num_free(), free);
  pool.check();
}

TEST(BlockPool, AllocatesEveryBlockOnce) {
  const auto pool = new_pool(8, 4);
  std::set<std::int32_t> seen;
  for (const std::int64_t n : {3, 0, 1, 4}) {
    const Ids ids = pool->allocate(n);
    EXPECT_EQ(ids.size(), static_cast<std::size_t>(n));
    seen.insert(ids.begin(), ids.end());
  }
  EXPECT_EQ(seen.size(), 8u);
  EXPECT_EQ(*seen.begin(), 0);
  EXPECT_EQ(*seen.rbegin(), 7);
  EXPECT_EQ(pool->num_free(), 0);
  EXPECT_EQ(pool->num_used(), 8);
  EXPECT_EQ(pool->ref_counts(), Ids(8, 1));
  pool->check();
}

TEST(BlockPool, GivesTheBlockFreedLastFirst) {
  const auto pool = new_pool(8, 4);
  const Ids ids = pool->allocate(5);
  pool->release(Ids{ids[1]});
  pool->release(Ids{ids[3]});
  EXPECT_EQ(pool->allocate(2), (Ids{ids[3], ids[1]}));
}

TEST(BlockPool, AllocateIsAllOrNothing) {
  const auto pool = new_pool(8, 4);
  pool->allocate(6);
  expect_refused<OutOfBlocks>(
      *pool, [&] { pool->allocate(3); },
      "BlockPool.allocate: n: got 3, which takes 3 blocks, expected at most the 2 free");
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  expect_refused<OutOfBlocks>(
      *pool, [&] { pool->allocate(most); },
      concat("BlockPool.allocate: n: got ", most, ", which takes ", most,
             " blocks, expected at most the 2 free"));
  expect_refused<ValueError>(
      *pool, [&] { pool->allocate(-1); }, "BlockPool.allocate: n: got -1, expected >= 0");
  EXPECT_EQ(pool->allocate(2).size(), 2u);
}

TEST(BlockPool, RetainAndReleaseCount) {
  const auto pool = new_pool(4, 4);
  const Ids ids = pool->allocate(2);
  pool->retain(Ids{ids[0], ids[1], ids[0]});
  EXPECT_EQ(pool->ref_count(ids[0]), 3);
  EXPECT_EQ(pool->ref_count(ids[1]), 2);
  EXPECT_EQ(pool->stats().shared, 2);
  pool->release(Ids{ids[0], ids[1], ids[1]});
  EXPECT_EQ(pool->ref_count(ids[0]), 2);
  EXPECT_EQ(pool->ref_count(ids[1]), 0);
  EXPECT_EQ(pool->stats().shared, 1);
  EXPECT_EQ(pool->num_used(), 1);
  pool->release(Ids{ids[0], ids[0]});
  EXPECT_EQ(pool->num_free(), 4);
  pool->retain(Ids{});
  pool->release(Ids{});
  pool->check();
}

TEST(BlockPool, TakesIdsOfEitherTypeAndAnyStride) {
  const auto pool = new_pool(4, 4);
  const Ids ids = pool->allocate(3);
  const std::int64_t wide[] = {ids[0], -7, ids[2], -7};
  IndexView every_second = contiguous_index_view(wide, {2});
  every_second.strides[0] = 2 * sizeof(std::int64_t);
  pool->retain(every_second);
  EXPECT_EQ(pool->ref_count(ids[0]), 2);
  EXPECT_EQ(pool->ref_count(ids[1]), 1);
  EXPECT_EQ(pool->ref_count(ids[2]), 2);
  pool->release(every_second);
  EXPECT_EQ(pool->stats().shared, 0);
}

TEST(BlockPool, UnknownIdsAreRefused) {
  const auto pool = new_pool(4, 4);
  const Ids ids = pool->allocate(2);
  for (const std::int64_t unknown :
       {std::int64_t{4}, std::int64_t{-1}, (std::int64_t{1} << 32) + ids[0]}) {
    const std::int64_t list[] = {ids[0], ids[1], unknown};
    const IndexView view = contiguous_index_view(list, {3});
    const std::string rest = concat("got block ", unknown, " at index 2, expected 0 to 3");
    expect_refused<IndexError>(
        *pool, [&] { pool->retain(view); }, "BlockPool.retain: ids: " + rest);
    expect_refused<IndexError>(
        *pool, [&] { pool->release(view); }, "BlockPool.release: ids: " + rest);
  }
  EXPECT_EQ(message_of<IndexError>([&] { pool->ref_count(4); }),
            "BlockPool.ref_count: id: got 4, expected 0 to 3");
  EXPECT_EQ(message_of<IndexError>([&] { pool->ref_count(-1); }),
            "BlockPool.ref_count: id: got -1, expected 0 to 3");
}

TEST(BlockPool, FreeBlocksAreRefused) {
  const auto pool = new_pool(4, 4);
  const Ids ids = pool->allocate(3);
  pool->retain(Ids{ids[2]});
  pool->release(Ids{ids[1]});
  const Ids list = {ids[0], ids[2], ids[1]};
  expect_refused<ValueError>(
      *pool, [&] { pool->retain(list); },
      concat("BlockPool.retain: ids: got block ", ids[1],
             " at index 2, which is free, expected a block in use"));
  expect_refused<ValueError>(
      *pool, [&] { pool->release(list); },
      concat("BlockPool.release: ids: got block ", ids[1],
             " at index 2, which is free, expected a block that was allocated or retained"));
}

TEST(BlockPool, DoubleReleaseWithinOneCallIsRefused) {
  const auto pool = new_pool(6, 4);
  const Ids ids = pool->allocate(4);
  pool->retain(Ids{ids[0]});
  const Ids list = {ids[2], ids[0], ids[0], ids[1], ids[3], ids[0]};
  expect_refused<ValueError>(
      *pool, [&] { pool->release(list); },
      concat("BlockPool.release: ids: got block ", ids[0],
             " again at index 5, expected it no more often than its references: 2"));
  expect_refused<ValueError>(
      *pool, [&] { pool->release(Ids{ids[1], ids[1]}); },
      concat("BlockPool.release: ids: got block ", ids[1],
             " again at index 1, expected it no more often than its references: 1"));
  pool->release(ids);
  EXPECT_EQ(pool->num_used(), 1);
}

TEST(BlockPool, ReferencesOfTablesAreNotAUsersToRelease) {
  const auto pool = new_pool(4, 4);
  BlockTable table(pool);
  table.extend(3);
  const Ids ids = table.blocks();
  expect_refused<ValueError>(
      *pool, [&] { pool->release(ids); },
      concat(
          "BlockPool.release: ids: got block ", ids[0],
          " at index 0, which only tables hold, expected a block that was allocated or retained"));
  pool->retain(ids);
  table.free();
  EXPECT_EQ(pool->num_used(), 1);
  pool->release(ids);
  EXPECT_EQ(pool->num_used(), 0);
}

TEST(BlockPool, PeakIsTheMostEverUsed) {
  const auto pool = new_pool(8, 4);
  const Ids ids = pool->allocate(5);
  pool->release(ids);
  pool->allocate(2);
  const PoolStats stats = pool->stats();
  EXPECT_EQ(stats.num_blocks, 8);
  EXPECT_EQ(stats.free, 6);
  EXPECT_EQ(stats.used, 2);
  EXPECT_EQ(stats.cached, 0);
  EXPECT_EQ(stats.peak_used, 5);
  EXPECT_EQ(stats.copies_on_write, 0);
}

TEST(BlockPoolConcurrency, AllocateRetainRelease) {
  const auto pool = new_pool(64, 4);
  std::vector<std::thread> threads;
  for (int worker = 0; worker < 4; ++worker) {
    threads.emplace_back([&, worker] {
      for (int round = 0; round < 2000; ++round) {
        try {
          const Ids ids = pool->allocate((round * 7 + worker) % 24);
          pool->retain(ids);
          pool->release(ids);
          if (round % 256 == 0) pool->check();
          pool->release(ids);
        } catch (const OutOfBlocks&) {
          // The others hold too many: also an answer.
        }
        const PoolStats stats = pool->stats();
        EXPECT_EQ(stats.free + stats.used, 64);
        EXPECT_LE(pool->num_free(), 64);
        EXPECT_LE(pool->num_used(), 64);
        EXPECT_LE(pool->ref_count(round % 64), 2);
        EXPECT_EQ(pool->ref_counts().size(), 64u);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool->num_free(), 64);
  EXPECT_EQ(pool->ref_counts(), Ids(64, 0));
  pool->check();
}

}  // namespace
}  // namespace quire::testing
