// The columns of a table as plain books: what they say of tokens and slots, and that check notices.
#include "quire/kv/table/table_columns.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kv/table/token_rows.h"

namespace quire::testing {
namespace {

using Slots = std::vector<std::int64_t>;

// "" where check finds nothing.
std::string flaw(const TableColumns& columns) {
  try {
    columns.check();
  } catch (const InvariantError& error) {
    return error.what();
  }
  return "";
}

TEST(TableColumns, CountRowsAndRoom) {
  TableColumns columns(4, 0);
  EXPECT_EQ(columns.last_rows(), 0);
  EXPECT_EQ(columns.fit_in_last(9), 0);
  EXPECT_EQ(columns.new_blocks(9), 3);
  EXPECT_EQ(flaw(columns), "");
  columns.blocks = {7, kHole, 2};
  columns.num_tokens = 9;
  EXPECT_EQ(flaw(columns), "");
  EXPECT_EQ(columns.last_rows(), 1);
  EXPECT_EQ(columns.fit_in_last(2), 2);
  EXPECT_EQ(columns.fit_in_last(5), 3);
  EXPECT_EQ(columns.new_blocks(3), 0);
  EXPECT_EQ(columns.new_blocks(4), 1);
  EXPECT_EQ(columns.new_blocks(8), 2);
  columns.num_tokens = 12;
  EXPECT_EQ(columns.last_rows(), 4);
  EXPECT_EQ(columns.new_blocks(1), 1);
  EXPECT_TRUE(columns.writes_into_last());
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(columns.new_blocks(most), most / 4 + 1);  // which overflows nothing
}

TEST(TableColumns, SlotsAreThoseOfWhatIsRead) {
  TableColumns columns(4, 2);
  columns.blocks = {7, 5, 2};
  columns.num_tokens = 10;
  EXPECT_FALSE(columns.writes_into_last());  // which is sealed
  columns.history.push(101);
  columns.history.push(103);
  EXPECT_EQ(flaw(columns), "");
  EXPECT_TRUE(columns.writes_into_last());
  EXPECT_EQ(columns.first_open(), 1);
  EXPECT_EQ(columns.read_id(0), 7);
  EXPECT_EQ(columns.read_id(2), 103);
  Slots slots(5);
  columns.fill_slots(3, slots);
  EXPECT_EQ(slots, (Slots{7 * 4 + 3, 101 * 4, 101 * 4 + 1, 101 * 4 + 2, 101 * 4 + 3}));
}

TEST(TableColumns, HolesAreNamed) {
  TableColumns columns(4, 0);
  columns.blocks = {7, kHole, 2};
  columns.num_tokens = 9;
  columns.require_no_hole("f: table", 4);
  EXPECT_EQ(message_of<ValueError>([&] { columns.require_no_hole("f: table", 5); }),
            "f: table: got a hole at column 1, of 4 dropped tokens, expected all of the first 5");
}

TEST(TableColumns, ContradictionsAreNoticed) {
  TableColumns columns(4, 1);
  columns.num_tokens = 5;
  EXPECT_EQ(flaw(columns), "BlockTable.check: columns: got 0, expected 2");
  columns.blocks = {3, kHole};
  EXPECT_EQ(flaw(columns),
            "BlockTable.check: last block: got -1, expected no hole, as it has free rows");
  columns.blocks = {3, 4};
  columns.history.push(kHole);
  EXPECT_EQ(flaw(columns), "BlockTable.check: open id: got -1, expected no hole");
  columns.history.pop();
  columns.history.push(9);
  EXPECT_EQ(flaw(columns), "");
}

}  // namespace
}  // namespace quire::testing
