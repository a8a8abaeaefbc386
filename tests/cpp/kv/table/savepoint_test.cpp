// A table that fails while it grows is what it was to the letter: blocks, the ids that it reads
// them by, bits, and what it can go back to; and so is the pool, down to the blocks that it gives
// next.
#include "quire/kv/table/savepoint.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "kv/table/open_bits.h"
#include "kv/table/straight_rows.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "support/temporary_path.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kTokens = ColumnHistory::kTokens;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// All that can be asked of a table and its pool.
struct Seen {
  std::vector<std::int32_t> blocks, ids;
  std::vector<std::string> bits;
  std::vector<std::int64_t> positions;
  std::int64_t next_position, open_blocks, kept_open, filled_tokens, shared;
  std::vector<std::int32_t> free;  // in the order in which they would be given out

  bool operator==(const Seen&) const = default;
};

void PrintTo(const Seen& seen, std::ostream* out) {
  *out << "blocks " << ::testing::PrintToString(seen.blocks) << " read as "
       << ::testing::PrintToString(seen.ids) << ", open " << seen.open_blocks << ", kept "
       << seen.kept_open << ", tokens " << seen.filled_tokens << ", shared " << seen.shared
       << ", free " << ::testing::PrintToString(seen.free);
}

Seen look_at(const BlockTable& table) {
  BlockPool& pool = *table.pool();
  table.check();
  pool.check();
  const PoolStats stats = pool.stats();
  // In a file to take them all would be slow.
  const bool is_in_memory = !pool.open_room().is_limited();
  const std::vector<std::int32_t> free = pool.allocate(is_in_memory ? stats.free : 0);
  pool.release(std::vector<std::int32_t>(free.rbegin(), free.rend()));
  return {table.blocks(),        packed(table),
          read_bits(table),      table.positions(),
          table.next_position(), stats.open_blocks,
          stats.kept_open,       stats.filled_tokens,
          stats.shared,          free};
}

// Two tables alike, of two pools: in which slots their open blocks lie is not asked.
void expect_alike(const BlockTable& table, const BlockTable& twin) {
  Seen seen = look_at(table), expected = look_at(twin);
  seen.ids = expected.ids = {};
  EXPECT_EQ(seen, expected);
}

// Appends tokens, of which the write that is the `failing`-th writes some and fails. Whether it
// did.
bool fails_in_part(BlockTable& table, const Tokens& tokens, int failing, bool straight) {
  std::vector<std::int64_t> slots(tokens.size());
  std::size_t next = 0;
  int part = 0;
  const auto write = [&](std::span<const std::int64_t> taken) {
    for (const std::int64_t slot : taken) {
      write_open(*table.pool(), slot, tokens[next++]);
      if (part == failing) throw Failure("no disk");
    }
    ++part;
  };
  const auto write_straight = [&](std::span<const std::int32_t> blocks, std::int64_t first) {
    write_sealed(*table.pool(), blocks, tokens.data() + first);
    if (part++ == failing) throw Failure("no disk");
    next += blocks.size() * table.pool()->geometry().block_size;
  };
  try {
    straight ? table.append(slots, write, write_straight) : table.append(slots, write);
  } catch (const Failure&) {
    return true;
  }
  return false;
}

// A table and those that share its blocks, made the same way each time.
struct Life {
  std::shared_ptr<BlockPool> pool;
  std::unique_ptr<BlockTable> table;
  std::unique_ptr<BlockTable> other = nullptr;
};

using Begin = void (*)(Life&);

void nothing(Life&) {}
void within_a_block(Life& life) { append_open(*life.table, tokens_from(0, 30)); }
void full_blocks(Life& life) { append_open(*life.table, tokens_from(0, 32)); }
// More columns are open than stay so, and none is kept; then some are.
void extended(Life& life) { extend_open(*life.table, tokens_from(0, 50)); }
void extended_again(Life& life) {
  extended(life);
  extend_open(*life.table, tokens_from(50, 3));
}
// Its last block is open, and another's as well.
void forked(Life& life) {
  within_a_block(life);
  life.other = life.table->fork();
}
// Its last block is sealed, and not full.
void cut_short(Life& life) {
  append_open(*life.table, tokens_from(0, 30 + 2 * kTokens));
  life.table->truncate(30);
}
void cut_short_and_forked(Life& life) {
  cut_short(life);
  life.other = life.table->fork();
}
// The same, from which it has gone on in another.
void replaced(Life& life) {
  cut_short(life);
  append_open(*life.table, tokens_from(300, 9));
}
void with_holes(Life& life) {
  append_open(*life.table, tokens_from(0, 50));
  life.table->drop_before(47, 5);
}

constexpr Begin kBegins[] = {nothing,        within_a_block, full_blocks, extended,
                             extended_again, forked,         cut_short,   cut_short_and_forked,
                             replaced,       with_holes};

class SavepointOf : public ::testing::TestWithParam<OpenKind> {
 protected:
  Life begun(std::size_t begin, std::shared_ptr<BlockPool> pool) const {
    Life life{pool, std::make_unique<BlockTable>(pool)};
    kBegins[begin](life);
    return life;
  }

  // Fails in each part in turn, until there are no more. Then the table goes on as its twin does,
  // which has failed nowhere.
  void fail_everywhere(const std::function<std::shared_ptr<BlockPool>()>& new_pool) {
    for (std::size_t begin = 0; begin < std::size(kBegins); ++begin) {
      for (const std::int64_t count :
           {std::int64_t{1}, std::int64_t{20}, kTokens + 1, 3 * kTokens}) {
        for (const bool straight : {false, true}) {
          SCOPED_TRACE(
              concat("begin ", begin, ", ", count, " tokens", straight ? ", straight" : ""));
          Life life = begun(begin, new_pool());
          const Seen before = look_at(*life.table);
          const Tokens tokens = tokens_from(1000, count);
          int parts = 0;
          while (fails_in_part(*life.table, tokens, parts, straight)) {
            ASSERT_EQ(look_at(*life.table), before) << "part " << parts;
            ++parts;
          }
          EXPECT_GE(parts, count > 2 * kTokens ? 3 : 1);
          Life twin = begun(begin, new_pool());
          ASSERT_FALSE(fails_in_part(*twin.table, tokens, -1, straight));
          expect_alike(*life.table, *twin.table);
          for (Life* each : {&life, &twin}) {
            each->table->truncate(each->table->num_tokens() - std::min(count, kTokens));
          }
          expect_alike(*life.table, *twin.table);
        }
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Kinds, SavepointOf, ::testing::ValuesIn(kOpenKinds), NameOfKind());

TEST_P(SavepointOf, WhatFailsInAnyPartChangesNothing) {
  fail_everywhere([] { return new_open_pool(GetParam(), 120); });
}

// With room for no more open blocks than a pool has at least.
TEST_P(SavepointOf, NorDoesItWhereMemoryIsLimited) {
  const std::int64_t least = OpenRoom::least_slots(geometry_of(GetParam(), 1));
  std::vector<std::unique_ptr<TemporaryPath>> paths;
  fail_everywhere([&] {
    paths.push_back(std::make_unique<TemporaryPath>());
    return new_backed_open_pool(GetParam(), paths.back()->text(), 120, least);
  });
}

// A table can go back as far as before it failed, and no further.
TEST_P(SavepointOf, WhatItCouldGoBackToIsStillThere) {
  for (const std::int64_t back : {std::int64_t{1}, std::int64_t{17}, kTokens, kTokens + 9}) {
    const auto pool = new_open_pool(GetParam(), 120), twins = new_open_pool(GetParam(), 120);
    BlockTable table(pool), twin(twins);
    for (BlockTable* each : {&table, &twin}) append_open(*each, tokens_from(0, 151));
    ASSERT_TRUE(fails_in_part(table, tokens_from(500, 4 * kTokens), 4, false));
    for (BlockTable* each : {&table, &twin}) each->truncate(151 - back);
    SCOPED_TRACE(back);
    expect_alike(table, twin);
  }
}

// Of pools that open no blocks: the copy of a shared last block goes, and the block is there again.
TEST(Savepoint, ASharedLastBlockIsTheLastOneAgain) {
  const KvGeometry geometry{
      .num_blocks = 20, .block_size = 4, .num_kv_heads = 1, .head_dim = 2, .v_head_dim = 2};
  const auto pool = std::make_shared<BlockPool>(geometry);
  PrefixCache cache(pool);
  BlockTable table(pool);
  table.extend(10);
  const auto fork = table.fork();
  const std::vector<std::int32_t> blocks = table.blocks();
  for (const std::int64_t n : {1, 2, 9}) {
    std::vector<std::int64_t> slots(n);
    const auto fail = [&](std::span<const std::int64_t> taken) {
      EXPECT_NE(taken[0] / 4, blocks.back());
      EXPECT_EQ(pool->ref_count(blocks.back()), 2);
      throw Failure("no disk");
    };
    EXPECT_THROW(table.append(slots, fail), Failure);
    EXPECT_EQ(table.blocks(), blocks);
    EXPECT_EQ(pool->num_used(), 3);
    EXPECT_EQ(pool->ref_count(blocks.back()), 2);
    table.check();
    pool->check();
  }
  table.extend(1);
  EXPECT_NE(table.blocks().back(), blocks.back());
  EXPECT_EQ(pool->ref_count(blocks.back()), 1);
  EXPECT_EQ(fork->blocks(), blocks);
  pool->check();
}

// What another table lets go of meanwhile is this one's alone, and writable, when it comes back.
TEST(Savepoint, ABlockThatTheOtherLetGoOfIsFreedWithTheTable) {
  const auto pool = new_int4_pool(60);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 30));
  auto fork = table.fork();
  const std::vector<std::string> bits = read_bits(table);
  const std::vector<std::int32_t> ids = packed(table);
  std::vector<std::int64_t> slots(100);
  int part = 0;
  EXPECT_THROW(table.append(slots,
                            [&](auto) {
                              fork.reset();
                              if (part++ == 2) throw Failure("no disk");
                            }),
               Failure);
  EXPECT_EQ(packed(table), ids);
  EXPECT_EQ(read_bits(table), bits);
  EXPECT_EQ(pool->num_used(), 8);
  append_open(table, tokens_from(30, 1));
  EXPECT_EQ(packed(table), ids);
  table.free();
  EXPECT_EQ(pool->num_used(), 0);
  EXPECT_EQ(pool->stats().open_blocks + pool->stats().kept_open, 0);
  pool->check();
}

}  // namespace
}  // namespace quire::testing
