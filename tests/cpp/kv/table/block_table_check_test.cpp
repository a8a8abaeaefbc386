// That a table notices where what it has contradicts itself or the pool's books, when it is asked
// and inside its operations.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "kv/table/token_rows.h"
#include "quire/kv/table/block_table.h"

namespace quire {

// Opens tables for forgery.
class BlockTableTest : public ::testing::Test {
 protected:
  static TableColumns& columns(BlockTable& table) { return table.columns_; }

  // That check() passes, and fails while `forge` is done.
  static void expect_noticed(BlockTable& table, const std::function<void()>& forge,
                             const std::string& message) {
    ASSERT_NO_THROW(table.check());
    const TableColumns saved = columns(table);
    forge();
    EXPECT_EQ(testing::message_of<InvariantError>([&] { table.check(); }), message);
    columns(table) = saved;
    ASSERT_NO_THROW(table.check());
  }
};

TEST_F(BlockTableTest, CheckNoticesEveryContradiction) {
  const auto pool = testing::new_pool(8, 4);
  BlockTable table(pool);
  table.extend(10);
  TableColumns& forged = columns(table);
  expect_noticed(
      table, [&] { forged.num_tokens = 13; }, "BlockTable.check: columns: got 3, expected 4");
  expect_noticed(
      table, [&] { forged.blocks[1] = 5; },
      "BlockTable.check: tables that hold a block: got 0 at column 1, expected what the "
      "table reads");
  expect_noticed(
      table, [&] { forged.num_tokens = 11; },
      "BlockTable.check: rows of a block: got 2 at column 2, expected what the table "
      "reads");
  const auto open_pool = testing::new_open_pool(testing::kOpenKinds[0], 8);
  BlockTable open(open_pool);
  open.extend(3);
  TableColumns& opened = columns(open);
  const std::int32_t id = opened.history.ids()[0];
  expect_noticed(
      open, [&] { opened.history.ids()[0] = id + 1; },
      concat("BlockTable.check: open id: got ", id + 1,
             " at column 0, expected what the table reads"));
}

// In builds that have assertions, those of the sanitizers among them; a release goes on.
TEST_F(BlockTableTest, ABrokenEquationEndsTheNextOperation) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  BlockTable table(testing::new_pool(8, 4));
  table.extend(5);
  const std::int32_t block = columns(table).blocks[0];
  columns(table).blocks[0] = 7;
  EXPECT_DEBUG_DEATH(table.extend(1), "broken: BlockTable.check: tables that hold a block: got 0");
  columns(table).blocks[0] = block;
}

}  // namespace quire
