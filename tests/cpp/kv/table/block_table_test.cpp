// Block tables: slots, sharing and copying, rolling back, and what is refused.
#include "quire/kv/table/block_table.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "kv/table/token_rows.h"
#include "quire/kv/table/held_tables.h"

namespace quire::testing {
namespace {

using Ids = std::vector<std::int32_t>;
using Slots = std::vector<std::int64_t>;
using Tokens = std::vector<std::uint32_t>;

Tokens tokens(std::uint32_t begin, std::uint32_t end) {
  Tokens result(end - begin);
  std::iota(result.begin(), result.end(), begin);
  return result;
}

Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// That `action` throws an E with this message and leaves table and pool as they were.
template <class E, class Action>
void expect_refused(const BlockTable& table, Action&& action, const std::string& message) {
  const Ids blocks = table.blocks();
  const std::int64_t num_tokens = table.num_tokens();
  const Ids counts = table.pool()->ref_counts();
  const PoolStats before = table.pool()->stats();
  EXPECT_EQ(message_of<E>(action), message);
  EXPECT_EQ(table.blocks(), blocks);
  EXPECT_EQ(table.num_tokens(), num_tokens);
  EXPECT_EQ(table.pool()->ref_counts(), counts);
  const PoolStats after = table.pool()->stats();
  EXPECT_EQ(after.free, before.free);
  EXPECT_EQ(after.filled_tokens, before.filled_tokens);
  EXPECT_EQ(after.reserved_tokens, before.reserved_tokens);
  EXPECT_EQ(after.copies_on_write, before.copies_on_write);
  table.pool()->check();
}

TEST(BlockTable, ExtendGivesTheSlotsInOrder) {
  const auto pool = new_pool(8, 4);
  pool->allocate(3);
  BlockTable table(pool);
  EXPECT_EQ(table.extend(0), Slots{});
  EXPECT_EQ(table.blocks(), Ids{});
  Slots slots = table.extend(3);
  for (const std::int64_t n : {0, 1, 7, 1}) {
    const Slots more = table.extend(n);
    slots.insert(slots.end(), more.begin(), more.end());
  }
  const Ids blocks = table.blocks();
  ASSERT_EQ(table.num_tokens(), 12);
  ASSERT_EQ(blocks.size(), 3u);
  ASSERT_EQ(slots.size(), 12u);
  for (std::int64_t t = 0; t < 12; ++t) EXPECT_EQ(slots[t], blocks[t / 4] * 4 + t % 4);
  EXPECT_EQ(pool->num_used(), 6);
  EXPECT_EQ(pool->stats().filled_tokens, 12);
  EXPECT_EQ(pool->stats().wasted_tokens, 0);
}

TEST(BlockTable, ExtendIntoASpanIsTheSame) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  std::array<std::int64_t, 5> slots{};
  table.extend(slots);
  const Ids blocks = table.blocks();
  for (std::int64_t t = 0; t < 5; ++t) EXPECT_EQ(slots[t], blocks[t / 4] * 4 + t % 4);
  table.extend(std::span<std::int64_t>());
  EXPECT_EQ(table.num_tokens(), 5);
}

TEST(BlockTable, ExtendIsAllOrNothing) {
  const auto pool = new_pool(4, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 6));
  expect_refused<OutOfBlocks>(
      table, [&] { table.extend(11); },
      "BlockTable.extend: n: got 11, which takes 3 blocks, expected at most the 2 free");
  std::array<std::int64_t, 11> slots{};
  expect_refused<OutOfBlocks>(
      table, [&] { table.extend(slots); },
      "BlockTable.extend: slots: got 11, which takes 3 blocks, expected at most the 2 free");
  expect_refused<OutOfBlocks>(
      table, [&] { table.append(slots, [](auto) { FAIL(); }); },
      "BlockTable.append: k: got 11, which takes 3 blocks, expected at most the 2 free");
  expect_refused<ValueError>(
      table, [&] { table.extend(-1); }, "BlockTable.extend: n: got -1, expected >= 0");
  for (const std::int64_t n : {std::int64_t{1000}, std::numeric_limits<std::int64_t>::max()}) {
    expect_refused<OutOfBlocks>(
        table, [&] { table.extend(n); },
        concat("BlockTable.extend: n: got ", n, ", which takes ",
               n == 1000 ? 250 : (std::int64_t{1} << 61), " blocks, expected at most the 2 free"));
  }
  EXPECT_EQ(table.extend(10).size(), 10u);
  EXPECT_TRUE(holds_tokens(table, tokens(0, 6)) || table.num_tokens() == 16);
}

TEST(BlockTable, ForkSharesEveryBlock) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 10));
  const auto fork = table.fork();
  EXPECT_EQ(fork->blocks(), table.blocks());
  EXPECT_EQ(fork->num_tokens(), 10);
  EXPECT_TRUE(holds_tokens(*fork, tokens(0, 10)));
  const PoolStats stats = pool->stats();
  EXPECT_EQ(stats.used, 3);
  EXPECT_EQ(stats.shared, 3);
  EXPECT_EQ(stats.filled_tokens, 10);
  EXPECT_EQ(stats.reserved_tokens, 12);
  EXPECT_EQ(stats.wasted_tokens, 2);
  table.free();
  EXPECT_TRUE(holds_tokens(*fork, tokens(0, 10)));
  EXPECT_EQ(pool->stats().shared, 0);
  pool->check();
}

TEST(BlockTable, FirstWriteToASharedBlockCopiesIt) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 6));
  const auto fork = table.fork();
  append_tokens(*fork, tokens(100, 101));
  EXPECT_EQ(fork->blocks()[0], table.blocks()[0]);
  EXPECT_NE(fork->blocks()[1], table.blocks()[1]);
  EXPECT_EQ(pool->stats().copies_on_write, 1);
  EXPECT_EQ(pool->stats().filled_tokens, 4 + 2 + 3);

  const Ids before = table.blocks();
  append_tokens(table, tokens(200, 203));
  EXPECT_EQ(table.blocks()[1], before[1]) << "no longer shared: written where it is";
  EXPECT_EQ(pool->stats().copies_on_write, 1);
  EXPECT_TRUE(holds_tokens(table, tokens(0, 6) + tokens(200, 203)));
  EXPECT_TRUE(holds_tokens(*fork, tokens(0, 6) + tokens(100, 101)));
  pool->check();
}

TEST(BlockTable, NothingIsCopiedWithoutNeed) {
  const auto pool = new_pool(8, 4);
  BlockTable full(pool);
  append_tokens(full, tokens(0, 8));
  const auto fork = full.fork();
  append_tokens(*fork, tokens(50, 51));
  EXPECT_EQ(fork->blocks()[1], full.blocks()[1]) << "a full block is never written again";

  const auto idle = fork->fork();
  EXPECT_EQ(idle->extend(0), Slots{});
  EXPECT_EQ(idle->blocks(), fork->blocks());
  EXPECT_EQ(pool->stats().copies_on_write, 0);
}

TEST(BlockTable, BlockThatAUserRetainsIsCopiedToo) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 2));
  const Ids kept = table.blocks();
  pool->retain(kept);
  append_tokens(table, tokens(2, 3));
  EXPECT_NE(table.blocks(), kept);
  EXPECT_TRUE(holds_tokens(table, tokens(0, 3)));
  EXPECT_EQ(pool->ref_count(kept[0]), 1);
  EXPECT_EQ(pool->stats().filled_tokens, 3);
  EXPECT_EQ(pool->stats().reserved_tokens, 4);
}

TEST(BlockTable, CopyCountsAsABlock) {
  const auto pool = new_pool(3, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 6));
  const auto fork = table.fork();
  expect_refused<OutOfBlocks>(
      *fork, [&] { fork->extend(3); },
      "BlockTable.extend: n: got 3, which takes 2 blocks, expected at most the 1 free");
  EXPECT_EQ(fork->extend(2).size(), 2u);
  EXPECT_EQ(table.extend(2).size(), 2u) << "now the only holder of its last block";
  EXPECT_EQ(pool->num_free(), 0);
}

TEST(BlockTable, TruncateFreesWhatIsNoLongerNeeded) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 15));
  const std::pair<std::int64_t, std::int64_t> cases[] = {{15, 4}, {13, 4}, {12, 3}, {9, 3},
                                                         {5, 2},  {4, 1},  {1, 1},  {0, 0}};
  for (const auto& [length, used] : cases) {
    table.truncate(length);
    EXPECT_EQ(table.num_tokens(), length);
    EXPECT_EQ(pool->num_used(), used);
    EXPECT_EQ(pool->stats().filled_tokens, length);
    EXPECT_TRUE(holds_tokens(table, tokens(0, static_cast<std::uint32_t>(length))));
    pool->check();
  }
  append_tokens(table, tokens(7, 12));
  EXPECT_TRUE(holds_tokens(table, tokens(7, 12)));
}

TEST(BlockTable, TruncateRefusesOtherLengths) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 5));
  for (const std::int64_t length :
       {std::int64_t{6}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) {
    expect_refused<ValueError>(
        table, [&] { table.truncate(length); },
        concat("BlockTable.truncate: num_tokens: got ", length, ", expected 0 to 5"));
  }
}

TEST(BlockTable, TruncatedIntoASharedBlockThenExtendedCopies) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 8));
  const auto fork = table.fork();
  fork->truncate(5);
  EXPECT_EQ(fork->blocks(), table.blocks());
  EXPECT_EQ(pool->stats().filled_tokens, 8);
  append_tokens(*fork, tokens(60, 61));
  EXPECT_EQ(pool->stats().copies_on_write, 1);
  EXPECT_TRUE(holds_tokens(table, tokens(0, 8)));
  EXPECT_TRUE(holds_tokens(*fork, tokens(0, 5) + tokens(60, 61)));
  EXPECT_EQ(pool->stats().filled_tokens, 8 + 2);
  pool->check();
}

TEST(BlockTable, FilledFallsWhenTheLongerHolderLeaves) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 8));
  const auto fork = table.fork();
  fork->truncate(5);
  table.free();
  EXPECT_EQ(pool->stats().filled_tokens, 5);
  EXPECT_EQ(pool->stats().wasted_tokens, 3);
  const Ids blocks = fork->blocks();
  append_tokens(*fork, tokens(60, 62));
  EXPECT_EQ(fork->blocks(), blocks) << "the only holder writes in place";
  EXPECT_TRUE(holds_tokens(*fork, tokens(0, 5) + tokens(60, 62)));
  pool->check();
}

TEST(BlockTable, AppendRollsBackWhenTheWriteThrows) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 6));
  std::array<std::int64_t, 7> slots{};
  expect_refused<std::runtime_error>(
      table, [&] { table.append(slots, [](auto) { throw std::runtime_error("no disk"); }); },
      "no disk");
  EXPECT_TRUE(holds_tokens(table, tokens(0, 6)));

  const auto fork = table.fork();
  EXPECT_THROW(fork->append(slots, [](auto) { throw std::runtime_error("no disk"); }),
               std::runtime_error);
  EXPECT_EQ(fork->num_tokens(), 6);
  EXPECT_TRUE(holds_tokens(*fork, tokens(0, 6)));
  EXPECT_TRUE(holds_tokens(table, tokens(0, 6)));
  pool->check();
}

TEST(BlockTable, GatherTakesAtMostWhatIsAskedFor) {
  const auto pool = new_pool(8, 4, 1);
  BlockTable table(pool);
  append_tokens(table, tokens(0, 6));
  std::vector<std::uint32_t> k(6 * 2 * 3, 77);
  std::vector<std::uint32_t> v(6 * 2 * 2, 77);
  EXPECT_EQ(table.gather(0, 5, k.data(), v.data()), 5);
  EXPECT_EQ(k[5 * 6 - 1], element(4, 0, 1, 2, false));
  EXPECT_EQ(k[5 * 6], 77u);
  EXPECT_EQ(v[5 * 4 - 1], element(4, 0, 1, 1, true));
  EXPECT_EQ(v[5 * 4], 77u);
  EXPECT_EQ(table.gather(0, 0, nullptr, nullptr), 0);
  for (const std::int64_t layer : {-1, 1}) {
    EXPECT_EQ(message_of<IndexError>([&] { table.gather(layer, 5, k.data(), v.data()); }),
              concat("BlockTable.gather: layer: got ", layer, ", expected 0 to 0"));
  }
}

TEST(BlockTable, UseAfterFreeThrows) {
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  table.extend(5);
  EXPECT_FALSE(table.is_freed());
  table.free();
  EXPECT_TRUE(table.is_freed());
  EXPECT_EQ(pool->num_free(), 8);

  std::array<std::int64_t, 1> slots{};
  const BlockTable* const list[] = {&table};
  const std::pair<const char*, std::function<void()>> uses[] = {
      {"num_tokens", [&] { table.num_tokens(); }},
      {"blocks", [&] { table.blocks(); }},
      {"extend", [&] { table.extend(1); }},
      {"extend", [&] { table.extend(-1); }},
      {"extend", [&] { table.extend(slots); }},
      {"append", [&] { table.append(slots, [](auto) { FAIL(); }); }},
      {"fork", [&] { table.fork(); }},
      {"truncate", [&] { table.truncate(0); }},
      {"gather", [&] { table.gather(0, 0, nullptr, nullptr); }},
      {"free", [&] { table.free(); }}};
  for (const auto& [name, use] : uses) {
    EXPECT_EQ(message_of<ValueError>(use),
              concat("BlockTable.", name, ": table: got a freed one, expected one in use"));
  }
  EXPECT_EQ(message_of<ValueError>([&] { HeldTables("attend", list); }),
            "attend: tables: got a freed table at index 0, expected tables in use");
  table.close();
  EXPECT_EQ(pool->num_free(), 8);
  pool->check();
}

TEST(BlockTable, DestructorAndCloseGiveTheBlocksBack) {
  const auto pool = new_pool(8, 4);
  {
    BlockTable table(pool);
    table.extend(9);
    const auto fork = table.fork();
    fork->extend(9);
    fork->close();
    EXPECT_EQ(pool->num_used(), 3);
  }
  EXPECT_EQ(pool->num_used(), 0);
  pool->check();
}

TEST(BlockTable, KeepsThePoolAlive) {
  auto pool = new_pool(8, 4);
  const std::weak_ptr<BlockPool> watch = pool;
  auto table = std::make_unique<BlockTable>(std::move(pool));
  append_tokens(*table, tokens(0, 5));
  EXPECT_TRUE(holds_tokens(*table, tokens(0, 5)));
  table.reset();
  EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace quire::testing
