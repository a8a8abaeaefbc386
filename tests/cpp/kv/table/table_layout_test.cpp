// Tables made of a layout: what they hold, what is refused, and the pool when it has no room. Which
// flaw is found where, the tests of forged table files say.
#include "quire/kv/table/table_layout.h"

#include <gtest/gtest.h>

#include "kv/table/open_rows.h"
#include "kv/table/token_rows.h"

namespace quire::testing {
namespace {

TableLayout layout_of(const BlockTable& table) {
  const BlockTable* const tables[] = {&table};
  return HeldTables("test", tables).layout(0);
}

TEST(TableLayout, OfATableThatLostTokens) {
  BlockTable table(new_pool(8, 4));
  table.extend(18);
  table.drop_before(12, 4);
  TableLayout layout = layout_of(table);
  EXPECT_EQ(layout.num_tokens, 18);
  EXPECT_EQ(layout.column_ranges, (std::vector<TableLayout::Range>{{0, 1}, {3, 5}}));
  EXPECT_TRUE(layout.positions.empty());
  EXPECT_EQ(layout.next_position, 18);
  EXPECT_EQ(layout.num_columns(4), 5);
  EXPECT_EQ(layout.num_blocks(), 3);
  EXPECT_EQ(layout.stored_tokens(4), 10);
  EXPECT_EQ(layout.flaw(4), "");

  table.keep(std::vector<std::int64_t>{0, 1, 16});
  layout = layout_of(table);
  EXPECT_EQ(layout.column_ranges, (std::vector<TableLayout::Range>{{0, 1}}));
  EXPECT_EQ(layout.positions, (std::vector<std::int64_t>{0, 1, 16}));
  EXPECT_EQ(layout.next_position, 18);
  table.keep(std::vector<std::int64_t>{0, 1});
  EXPECT_TRUE(layout_of(table).positions.empty());
  EXPECT_EQ(layout_of(table).next_position, 18);
}

TEST(TableLayout, MakesATableThatCountsItsRows) {
  const auto pool = new_pool(4, 4);
  {
    const BlockTable table(pool, {18, {{0, 1}, {3, 5}}, {}, 30});
    const auto blocks = table.blocks();
    EXPECT_EQ(blocks[1], kHole);
    EXPECT_EQ(blocks[2], kHole);
    EXPECT_EQ(table.positions().back(), 17);
    EXPECT_EQ(table.next_position(), 30);
    EXPECT_EQ(pool->stats().used, 3);
    EXPECT_EQ(pool->stats().filled_tokens, 10);
    pool->check();
  }
  {
    const BlockTable table(pool, {8, {{0, 1}}, {}, 8});  // ends with a hole
    EXPECT_EQ(pool->stats().filled_tokens, 4);
    pool->check();
  }
  const BlockTable empty(pool, {});
  const BlockTable dropped(pool, {8, {}, {}, 8});
  EXPECT_EQ(pool->num_free(), 4);
  EXPECT_EQ(dropped.blocks(), (std::vector<std::int32_t>{kHole, kHole}));
  pool->check();
}

TEST(TableLayout, OpenColumnsAreTheLast) {
  const auto pool = new_int4_pool(8);
  const TableLayout layout{18, {{0, 1}, {2, 3}, {4, 5}}, {}, 18, 3};
  EXPECT_EQ(layout.open_blocks(4), 2);
  EXPECT_EQ(layout.open_tokens(4), 6);
  {
    const BlockTable table(pool, layout);
    EXPECT_EQ(layout_of(table).num_open, 3);
    EXPECT_EQ(layout_of(table).column_ranges, layout.column_ranges);
    EXPECT_EQ(pool->stats().used, 3);
    EXPECT_EQ(pool->stats().open_blocks, 2);
    const std::vector<std::int32_t> ids = packed(table), blocks = table.blocks();
    EXPECT_EQ(ids[0], blocks[0]);
    EXPECT_EQ(ids[3], kHole);
    EXPECT_GE(std::min(ids[2], ids[4]), 8);
    pool->check();
  }
  EXPECT_EQ(pool->stats().open_blocks, 0);
  const TableLayout cut{6, {{0, 2}}, {}, 6};  // ends within a sealed block
  EXPECT_EQ(cut.open_tokens(4), 0);
  EXPECT_EQ(BlockTable(pool, cut).explain()[1].is_open, false);
  const TableLayout dropped{8, {{0, 1}}, {}, 8, 1};  // all that was open
  EXPECT_EQ(dropped.open_blocks(4), 0);
  EXPECT_EQ(dropped.open_tokens(4), 0);
  EXPECT_EQ(packed(BlockTable(pool, dropped))[1], kHole);
  for (const std::int64_t num_open : {-1, 3}) {
    EXPECT_EQ(message_of<ValueError>([&] { BlockTable(pool, {6, {{0, 2}}, {}, 6, num_open}); }),
              concat("BlockTable: layout: got ", num_open, " open columns, expected 0 to 2"));
  }
  EXPECT_EQ(message_of<ValueError>([&] { BlockTable(new_pool(8, 4), {6, {{0, 2}}, {}, 6, 1}); }),
            "BlockTable: layout: got 1 open column, expected none in a pool without open blocks");
  EXPECT_EQ(pool->stats().peak_used, 3);
  pool->check();
}

TEST(TableLayout, ARefusalTakesNothing) {
  const auto pool = new_pool(4, 4);
  EXPECT_EQ(message_of<ValueError>([&] { BlockTable(pool, {18, {{0, 4}}, {}, 18}); }),
            "BlockTable: layout: got block ranges up to 4, expected up to 5: the last block is not "
            "full, and never a hole");
  EXPECT_EQ(
      message_of<ValueError>([&] { BlockTable(pool, {4, {{0, 1}}, {}, 3}); }),
      concat("BlockTable: layout: got next position 3, expected 4 to ", TableLayout::kMaxPosition));
  EXPECT_EQ(message_of<ValueError>([&] { BlockTable(pool, {-1, {}, {}, 0}); }),
            "BlockTable: layout: got -1 tokens, expected 0 to 2147483647");
  EXPECT_EQ(message_of<ValueError>([&] { BlockTable(pool, {4, {{0, 1}}, {5, 6, 7}, 9}); }),
            "BlockTable: layout: got 3 positions, expected 4, one a token");
  BlockTable taken(pool);
  taken.extend(8);
  for (const std::int64_t num_tokens : {9, 16, 1 << 30}) {
    const std::int64_t columns = num_tokens / 4 + (num_tokens % 4 != 0);
    EXPECT_THROW(BlockTable(pool, {num_tokens, {{0, columns}}, {}, num_tokens}), OutOfBlocks);
  }
  EXPECT_EQ(pool->stats().peak_used, 2);
  pool->check();
}

}  // namespace
}  // namespace quire::testing
