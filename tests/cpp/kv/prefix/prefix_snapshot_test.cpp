// What a cache holds, taken out and put back: in another pool, in the same order, within its room.
#include "quire/kv/prefix/prefix_snapshot.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "kv/prefix/prefix_rows.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kBlockSize = 4;

void release(BlockPool& pool, const PrefixSnapshot& snapshot) {
  for (const BlockRows& block : snapshot.blocks) pool.release(std::vector{block.id});
}

// Copies the snapshot's rows into new blocks of another pool and caches them there.
std::int64_t move_to(PrefixCache& cache, const BlockPool& from, PrefixSnapshot snapshot) {
  BlockPool& pool = *cache.pool();
  const auto ids = pool.allocate(static_cast<std::int64_t>(snapshot.blocks.size()));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    for (std::int64_t layer = 0; layer < pool.geometry().num_layers; ++layer) {
      const KvPlanes to = pool.storage().planes(layer);
      const KvPlane* plane = to.begin();
      for (const auto& [name, source] : from.storage().planes(layer)) {
        for (std::int64_t row = 0; row < snapshot.blocks[i].rows; ++row) {
          for (std::int64_t head = 0; head < source.shape[2]; ++head) {
            std::memcpy(plane->view.at(ids[i], row, head),
                        source.at(snapshot.blocks[i].id, row, head),
                        static_cast<std::size_t>(source.strides[1]));
          }
        }
        ++plane;
      }
    }
    snapshot.blocks[i].id = ids[i];
  }
  const std::int64_t added = cache.restore(snapshot);
  release(pool, snapshot);
  pool.check();
  return added;
}

// Whether each node's parent comes after it, and is full or a namespace.
void expect_a_tree(const PrefixSnapshot& snapshot) {
  std::int64_t ids = 0;
  for (std::size_t i = 0; i < snapshot.nodes.size(); ++i) {
    const auto& [parent, block, size, priority] = snapshot.nodes[i];
    ids += size;
    ASSERT_EQ(priority, 0);
    ASSERT_LE(size, snapshot.blocks[block].rows);
    ASSERT_GE(parent, -static_cast<std::int64_t>(snapshot.namespaces.size()));
    if (parent < 0) continue;
    ASSERT_GT(parent, static_cast<std::int64_t>(i));
    ASSERT_EQ(snapshot.nodes[parent].size, kBlockSize);
  }
  ASSERT_EQ(ids, static_cast<std::int64_t>(snapshot.ids.size()));
}

TEST(PrefixSnapshot, OfAnEmptyCacheIsEmpty) {
  const auto pool = new_pool(8, kBlockSize);
  PrefixCache cache(pool);
  const PrefixSnapshot snapshot = cache.snapshot();
  EXPECT_TRUE(snapshot.nodes.empty() && snapshot.blocks.empty() && snapshot.namespaces.empty());
  EXPECT_EQ(cache.restore(snapshot), 0);
}

TEST(PrefixSnapshot, HoldsEachBlockOnceUntilItIsReleased) {
  const auto pool = new_pool(4, kBlockSize);
  PrefixCache cache(pool);
  const Ids ids = count_from(0, 6);
  auto table = serve(cache, ids);
  cache.insert(count_from(0, 4), *table, "other");
  table->free();
  const PrefixSnapshot snapshot = cache.snapshot();
  EXPECT_EQ(snapshot.nodes.size(), 3u);
  EXPECT_EQ(snapshot.blocks.size(), 2u);
  EXPECT_EQ(snapshot.namespaces.size(), 2u);
  EXPECT_EQ(pool->stats().cached, 0);
  EXPECT_THROW(pool->allocate(3), OutOfBlocks);  // nothing of it can go
  release(*pool, snapshot);
  EXPECT_EQ(pool->stats().cached, 2);
  EXPECT_EQ(pool->allocate(3).size(), 3u);
  pool->check();
}

TEST(PrefixSnapshot, NamesAndWideIdsComeBack) {
  const auto pool = new_pool(16, kBlockSize);
  PrefixCache cache(pool), other(new_pool(16, kBlockSize));
  const std::string space("a\0\xff\xc3\xa4", 5);
  const Ids ids = {std::int64_t{1} << 62, 7, 0, 1, 2};
  serve(cache, ids, space);
  const PrefixSnapshot snapshot = cache.snapshot();
  EXPECT_EQ(snapshot.namespaces, std::vector{space});
  EXPECT_EQ(move_to(other, *pool, snapshot), 2);
  const auto table = other.match(ids + Ids{3}, space);
  EXPECT_TRUE(holds_ids(*table, ids, space));
  EXPECT_EQ(other.match(ids)->num_tokens(), 0);
  release(*pool, snapshot);
}

// Random caches, some of whose tables are in use: another pool gives the same answers, and evicts
// in the same order.
TEST(PrefixSnapshot, RestoredAnswersAndEvictsAlike) {
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    const auto pool = new_pool(64, kBlockSize);
    PrefixCache cache(pool);
    std::vector<Ids> prompts;
    std::vector<std::shared_ptr<BlockTable>> in_use;
    for (int i = 0; i < 12; ++i) {
      Ids ids;
      for (std::size_t length = 1 + random() % 20; ids.size() < length;)
        ids.push_back(random() % 2);
      const std::string space = random() % 3 == 0 ? "other" : "";
      auto table = serve(cache, ids, space);
      if (round % 2 == 0 && random() % 3 == 0) in_use.push_back(std::move(table));
      prompts.push_back(std::move(ids));
    }
    const auto copy_pool = new_pool(256, kBlockSize);
    PrefixCache copy(copy_pool);
    const PrefixSnapshot snapshot = cache.snapshot();
    expect_a_tree(snapshot);
    EXPECT_EQ(static_cast<std::int64_t>(snapshot.nodes.size()), cache.size());
    EXPECT_EQ(move_to(copy, *pool, snapshot), cache.size());
    EXPECT_EQ(move_to(copy, *pool, snapshot), 0);  // all there
    release(*pool, snapshot);
    pool->check();
    in_use.clear();
    while (cache.size() > 0) {
      for (const Ids& ids : prompts) {
        for (const std::string space : {"", "other"}) {
          const auto table = copy.match(ids + Ids{9}, space);
          const auto length = static_cast<std::ptrdiff_t>(table->num_tokens());
          ASSERT_TRUE(holds_ids(*table, {ids.begin(), ids.begin() + length}, space));
        }
      }
      if (round % 2 == 0) break;
      // A match is a use: compare the order of caches that nobody has asked.
      PrefixCache fresh(new_pool(64, kBlockSize));
      const PrefixSnapshot now = cache.snapshot();
      move_to(fresh, *pool, now);
      release(*pool, now);
      const std::int64_t count = 1 + random() % 4;
      ASSERT_EQ(fresh.evict(count), cache.evict(count));
      const PrefixSnapshot left = cache.snapshot();
      const PrefixSnapshot fresh_left = fresh.snapshot();
      ASSERT_EQ(left.ids, fresh_left.ids);
      release(*pool, left);
      release(*fresh.pool(), fresh_left);
    }
  }
}

TEST(PrefixSnapshot, OnlyTheNewestStayWhereRoomIsShort) {
  const auto pool = new_pool(16, kBlockSize);
  PrefixCache cache(pool);
  for (std::int64_t i = 0; i < 4; ++i) serve(cache, count_from(100 * i, 8));
  PrefixCache small(new_pool(16, kBlockSize), 3);
  const PrefixSnapshot snapshot = cache.snapshot();
  EXPECT_EQ(move_to(small, *pool, snapshot), 3);
  EXPECT_EQ(small.match(count_from(300, 9))->num_tokens(), 8);
  EXPECT_EQ(small.match(count_from(200, 9))->num_tokens(), 4);
  EXPECT_EQ(small.match(count_from(100, 9))->num_tokens(), 0);
  release(*pool, snapshot);
}

// Where nodes of the snapshot are here already, idle and first to go, their children still find
// them.
TEST(PrefixSnapshot, WhatIsHereStaysWhileItsChildrenAreAdded) {
  const auto pool = new_pool(32, kBlockSize);
  PrefixCache cache(pool);
  serve(cache, count_from(0, 16));
  serve(cache, count_from(500, 16));
  for (std::int64_t most = 1; most <= 9; ++most) {
    const auto small_pool = new_pool(32, kBlockSize);
    PrefixCache small(small_pool, most);
    serve(small, count_from(0, 4));
    const PrefixSnapshot snapshot = cache.snapshot();
    const std::int64_t before = small.size();
    const std::int64_t added = move_to(small, *pool, snapshot);
    EXPECT_EQ(small.size(), before + added);
    EXPECT_LE(small.size(), most);
    EXPECT_EQ(small.size(), std::min<std::int64_t>(most, 8));
    release(*pool, snapshot);
    small.clear();
    small_pool->check();
    EXPECT_EQ(small_pool->num_free(), 32);
  }
}

}  // namespace
}  // namespace quire::testing
