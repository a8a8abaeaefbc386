// explain: each column and all of its holders, as of one moment.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "kv/table/token_rows.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "quire/kv/table/block_table.h"

namespace quire::testing {
namespace {

TEST(BlockTableExplain, ColumnsAndHolders) {
  const auto pool = new_pool(8, 4, 1);
  PrefixCache cache(pool);
  BlockTable table(pool);
  EXPECT_TRUE(table.explain().empty());
  table.extend(14);
  const std::vector<std::int32_t> blocks = table.blocks();
  cache.insert(std::vector<std::int64_t>{1, 2, 3, 4}, table);
  pool->retain(std::vector{blocks[2], blocks[2]});
  const auto child = table.fork();
  child->truncate(13);
  child->drop_before(8, 1);

  const std::vector<ExplainedBlock> columns = child->explain();
  ASSERT_EQ(columns.size(), 4u);
  const auto expect = [&](std::size_t i, std::int32_t id, std::int64_t num_tokens,
                          const BlockHolders& holders) {
    EXPECT_EQ(columns[i].id, id) << i;
    EXPECT_EQ(columns[i].num_tokens, num_tokens) << i;
    EXPECT_EQ(columns[i].holders.users, holders.users) << i;
    EXPECT_EQ(columns[i].holders.tables, holders.tables) << i;
    EXPECT_EQ(columns[i].holders.caches, holders.caches) << i;
    EXPECT_EQ(columns[i].holders.rows, holders.rows) << i;
  };
  expect(0, blocks[0], 4, {.users = 0, .tables = 2, .caches = 1, .rows = 4});
  expect(1, kHole, 0, {});
  expect(2, blocks[2], 4, {.users = 2, .tables = 2, .caches = 0, .rows = 4});
  expect(3, blocks[3], 1, {.users = 0, .tables = 2, .caches = 0, .rows = 2});
  child->free();
  EXPECT_EQ(message_of<ValueError>([&] { child->explain(); }),
            "BlockPool.explain: table: got a freed one, expected one in use");
  pool->release(std::vector{blocks[2], blocks[2]});
}

// A fork takes all blocks in one step: no look sees some of them shared and others not.
TEST(BlockTableExplain, SeesOneMoment) {
  constexpr std::int64_t kBlocks = 512;
  const auto pool = new_pool(kBlocks, 1, 1);
  BlockTable table(pool);
  table.extend(kBlocks);
  std::atomic<bool> done = false;
  std::atomic<int> forks = 0;
  std::thread forker([&] {
    while (!done) {
      table.fork();
      ++forks;
    }
  });
  while (forks == 0) std::this_thread::yield();
  for (int look = 0; look < 2000; ++look) {
    const std::vector<ExplainedBlock> columns = table.explain();
    for (const ExplainedBlock& column : columns) {
      if (column.holders.tables == columns[0].holders.tables) continue;
      ADD_FAILURE() << "block " << column.id << " has " << column.holders.tables
                    << " tables, block " << columns[0].id << " has " << columns[0].holders.tables;
      look = 2000;
      break;
    }
  }
  done = true;
  forker.join();
}

}  // namespace
}  // namespace quire::testing
