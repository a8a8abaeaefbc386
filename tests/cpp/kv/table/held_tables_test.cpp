// Tables held still: what is packed of them, and which are refused.
#include "quire/kv/table/held_tables.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "kv/table/open_rows.h"
#include "kv/table/token_rows.h"
#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"

namespace quire::testing {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(HeldTables, PackPadsToTheLongest) {
  const auto pool = new_pool(8, 4);
  BlockTable a(pool), b(pool), empty(pool);
  a.extend(9);
  b.extend(4);
  const BlockTable* const list[] = {&b, &a, &empty, &b};
  const HeldTables held("pack_tables", list);
  ASSERT_EQ(held.size(), 4);
  ASSERT_EQ(held.max_blocks(), 3);
  EXPECT_EQ(held.pool(), pool.get());
  Ids packed(12), lengths(4);
  held.pack(-5, packed.data(), lengths.data());
  EXPECT_EQ(packed, (Ids{3, -5, -5, 0, 1, 2, -5, -5, -5, 3, -5, -5}));
  EXPECT_EQ(lengths, (Ids{4, 9, 0, 4}));
}

TEST(HeldTables, NoTablesHaveNoPool) {
  const HeldTables held("pack_tables", {});
  EXPECT_EQ(held.size(), 0);
  EXPECT_EQ(held.max_blocks(), 0);
  EXPECT_EQ(held.pool(), nullptr);
  held.pack<std::int32_t>(-1, nullptr, nullptr);
}

TEST(HeldTables, TablesOfTwoPoolsAreRefused) {
  BlockTable a(new_pool(8, 4)), b(new_pool(8, 4));
  const BlockTable* const list[] = {&a, &a, &b};
  EXPECT_EQ(message_of<ValueError>([&] { HeldTables("attend", list); }),
            "attend: tables: got a table of another pool at index 2, expected tables of one pool");
  b.extend(1);  // and none is left locked
  a.extend(1);
}

TEST(HeldTables, PositionsAreThoseOfTheTokensAndZeroAfterThem) {
  const auto pool = new_pool(8, 4);
  BlockTable a(pool), b(pool);
  a.extend(6);
  const std::int64_t kept[] = {1, 4, 5};
  a.keep(kept);
  b.extend(5);
  const BlockTable* const list[] = {&a, &b};
  const HeldTables held("attend", list);
  EXPECT_TRUE(held.has_positions());
  ASSERT_EQ(held.max_tokens(), 5);
  std::vector<std::int64_t> positions(10, -1);
  held.pack_positions(positions.data());
  EXPECT_EQ(positions, (std::vector<std::int64_t>{1, 4, 5, 0, 0, 0, 1, 2, 3, 4}));
  EXPECT_FALSE(HeldTables("attend", std::span(list).last(1)).has_positions());
}

TEST(HeldTables, NobodyChangesThemUntilTheyAreLetGo) {
  BlockTable table(new_pool(8, 4));
  table.extend(3);
  std::thread writer;
  {
    const BlockTable* const list[] = {&table};
    const HeldTables held("attend", list);
    writer = std::thread([&] { table.extend(8); });  // waits
    for (int i = 0; i < 100; ++i) {
      Ids packed(1), lengths(1);
      held.pack(-1, packed.data(), lengths.data());
      ASSERT_EQ(lengths, Ids{3});
      std::this_thread::yield();
    }
  }
  writer.join();
  EXPECT_EQ(table.num_tokens(), 11);
}

}  // namespace
}  // namespace quire::testing
