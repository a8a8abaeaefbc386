// Memory for open rows is a part of resident_bytes: what is kept makes room for them, and a call
// that would open more than there is room for is refused before it has changed anything.
#include "quire/kv/pool/open_room.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kv/table/open_sequence.h"
#include "kv/table/straight_rows.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "support/temporary_path.h"

namespace quire::testing {
namespace {

// Pages of open rows that take memory, as slots.
std::int64_t slots_in_memory(const BlockPool& pool) {
  const std::int64_t bytes = pool.open_blocks().slot_bytes(), page = BlockMemory::page_bytes();
  std::vector<unsigned char> states(pool.geometry().num_blocks * bytes / page);
  EXPECT_EQ(mincore(pool.open_blocks().k_open(0).data, states.size() * page, states.data()), 0);
  return std::count_if(states.begin(), states.end(), [](auto state) { return state & 1; }) * page /
         bytes;
}

template <class Call>
std::string refusal_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class OpenRoomTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kSlots = 46;  // 18 of one table, and as many where it grows

  std::int64_t slot_bytes() const { return pool->open_blocks().slot_bytes(); }

  // A slot that was never used is touched only where all others are open: so there were never more
  // open than there may be, if all of these have low numbers.
  void expect_no_more_were_touched() {
    BlockTable all(pool);
    all.extend(4 * kSlots);
    for (const std::int32_t id : packed(all)) EXPECT_LT(id, 200 + kSlots);
  }

  TemporaryPath path;
  std::shared_ptr<BlockPool> pool = new_backed_open_pool({}, path.text(), 200, kSlots);
};

TEST_F(OpenRoomTest, TheLeastHasRoomForOneTable) {
  const std::int64_t least = Residency::least_bytes(pool->storage()) + 38 * slot_bytes();
  KvGeometry geometry = pool->geometry();
  const TemporaryPath other;
  EXPECT_EQ(refusal_of([&] { BlockPool(geometry, {other.text(), least - 1}); }),
            concat("BlockPool: resident_bytes: got ", least - 1, ", expected at least ", least,
                   " for blocks of this shape"));
  for (geometry.open_blocks = 1; *geometry.open_blocks < 40; *geometry.open_blocks += 19) {
    const TemporaryPath path_of_this;
    const auto bytes =
        Residency::least_bytes(pool->storage()) + OpenRoom::least_slots(geometry) * slot_bytes();
    const auto small =
        std::make_shared<BlockPool>(geometry, BackingFile{path_of_this.text(), bytes});
    EXPECT_EQ(small->open_room().most(), OpenRoom::least_slots(geometry));
    BlockTable table(small);
    append_open(table, tokens_from(0, 3 * 4 + 1));  // a part, and one that begins
    append_open(table, tokens_from(13, 600));
    EXPECT_EQ(small->stats().open_blocks, *geometry.open_blocks);
  }
}

// Whatever a slot takes, also where that is no multiple of what a sealed block does.
TEST_F(OpenRoomTest, TheLeastThatIsAskedForIsEnough) {
  for (const std::int64_t block_size : {4, 16, 32}) {
    for (const std::int64_t head_dim : {24, 64, 128, 200}) {
      for (const DType dtype : {DType::int4, DType::int8}) {
        const KvGeometry geometry{.num_blocks = 64,
                                  .block_size = block_size,
                                  .num_kv_heads = 4,
                                  .head_dim = head_dim,
                                  .v_head_dim = head_dim,
                                  .num_layers = 2,
                                  .dtype = dtype,
                                  .open_blocks = 1};
        const TemporaryPath other;
        const std::string refusal =
            refusal_of([&] { BlockPool(geometry, {other.text(), std::int64_t{1}}); });
        const std::string before = "expected at least ";
        const std::int64_t least = std::stoll(refusal.substr(refusal.find(before) + before.size()));
        const BlockPool small(geometry, {other.text(), least});
        EXPECT_GE(small.open_room().most(), OpenRoom::least_slots(geometry))
            << block_size << head_dim;
      }
    }
  }
}

TEST_F(OpenRoomTest, APromptOfAnyLengthTakesFewSlots) {
  EXPECT_EQ(pool->open_room().most(), kSlots);
  BlockTable table(pool);
  OpenSequence model(pool->geometry());
  append_open(table, tokens_from(0, 700));
  model.append(tokens_from(0, 700));
  EXPECT_TRUE(model.is_what(table));
  EXPECT_EQ(pool->stats().open_blocks, 2);
  EXPECT_LE(pool->stats().resident_bytes,
            Residency::least_bytes(pool->storage()) + kSlots * slot_bytes());
  pool->check();
  table.free();
  expect_no_more_were_touched();
}

TEST_F(OpenRoomTest, KeepOfAnyLengthTakesFewSlots) {
  BlockTable table(pool);
  OpenSequence model(pool->geometry());
  append_open(table, tokens_from(0, 700));
  model.append(tokens_from(0, 700));
  std::vector<std::int64_t> kept;
  for (std::int64_t token = 1; token < 700; token += 2) kept.push_back(token);
  table.keep(kept);
  model.keep(kept);
  EXPECT_TRUE(model.is_what(table));
  pool->check();
  table.free();
  expect_no_more_were_touched();
}

TEST_F(OpenRoomTest, WhatTakesMoreAtOnceIsRefusedBeforeAnythingChanges) {
  PrefixCache cache(pool);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 22));
  std::vector<std::int64_t> ids(20);
  std::iota(ids.begin(), ids.end(), 0);
  cache.insert(ids, table);
  const std::int64_t left = kSlots - 6;
  const auto before = table.blocks();
  const std::int64_t num_free = pool->num_free();
  EXPECT_EQ(
      refusal_of([&] { table.extend(200); }),
      concat("BlockTable.extend: n: got 200, which takes 50 more open blocks at once, expected "
             "at most the ",
             left, " that resident_bytes has room for"));
  EXPECT_EQ(table.blocks(), before);
  EXPECT_EQ(pool->num_free(), num_free);
  extend_open(table, tokens_from(22, 2 + 4 * left));  // all there is
  EXPECT_EQ(pool->open_room().left(), 4);             // of those before, which it cannot go back to
  BlockTable other(pool);
  other.extend(4 * 4);
  EXPECT_EQ(pool->open_room().left(), 0);
  extend_open(table, {});
  const auto fork = table.fork();
  EXPECT_EQ(
      refusal_of([&] { append_open(*fork, {1}); }),
      "BlockTable.append: k: got 1, which takes 1 more open block at once, expected at most the "
      "0 that resident_bytes has room for");
  const std::vector<std::int64_t> asked = {0, 1, 2, 3, 4, 5, 99, 99};
  EXPECT_EQ(
      refusal_of([&] { cache.match(asked); }),
      "PrefixCache.match: token_ids: got 6, which takes 1 more open block at once, expected at "
      "most the 0 that resident_bytes has room for");
  EXPECT_EQ(cache.stats().tokens_asked, 0);
  const std::vector<std::int64_t> kept = {1, 2, 3};
  EXPECT_EQ(refusal_of([&] { fork->keep(kept); }),
            "BlockTable.keep: positions: got 3, which takes 1 more open block at once, expected at "
            "most the 0 that resident_bytes has room for");
  std::vector<std::int64_t> longer = ids;
  longer.push_back(5);
  EXPECT_EQ(cache.match(longer)->num_tokens(), 20);  // of full blocks, which opens none
  OpenSequence model(pool->geometry());
  model.append(tokens_from(0, 22));
  model.extend(tokens_from(22, 2 + 4 * left));
  EXPECT_TRUE(model.is_what(table));
  EXPECT_TRUE(model.is_what(*fork));
  table.free();
  fork->free();
  other.free();
  EXPECT_EQ(pool->open_room().left(), kSlots);
  pool->check();
}

TEST_F(OpenRoomTest, OpenColumnsOfALoadedTableHaveNoTileYet) {
  TableLayout layout;
  layout.num_tokens = layout.next_position = 22;
  layout.column_ranges = {{0, 6}};
  layout.num_open = 2;
  const BlockTable table(pool, layout);
  EXPECT_EQ(pool->residency().kept_bytes(), 4 * 2 * pool->storage().block_bytes());
  EXPECT_EQ(pool->open_room().left(), kSlots - 2);
  layout.num_tokens = layout.next_position = 158;
  layout.column_ranges = {{0, 40}};
  layout.num_open = 40;
  BlockTable other(pool, layout);
  EXPECT_EQ(
      refusal_of([&] { BlockTable(pool, layout); }),
      "BlockTable: layout: got 158, which takes 40 more open blocks at once, expected at most the "
      "4 that resident_bytes has room for");
  EXPECT_EQ(pool->num_used(), 46);
}

// Room for tiles is made as they are sealed: so nobody writes them before.
TEST_F(OpenRoomTest, TilesThatCouldBeWrittenStraightAreKept) {
  BlockTable table(pool);
  append_straight(table, tokens_from(0, 14));
  EXPECT_EQ(pool->stats().offloaded, 0);
  for (const ExplainedBlock& block : table.explain()) EXPECT_TRUE(block.is_resident);
  OpenSequence model(pool->geometry());  // reading it brings blocks back
  model.append(tokens_from(0, 14));
  EXPECT_TRUE(model.is_what(table));
}

TEST_F(OpenRoomTest, KeptTilesMakeRoomAndComeBack) {
  const std::int64_t capacity = pool->residency().capacity();
  const std::int64_t slabs_of_slot = slot_bytes() / pool->storage().block_bytes();
  ASSERT_EQ(capacity, 4 + kSlots * slabs_of_slot);
  const std::int64_t limit = Residency::least_bytes(pool->storage()) + kSlots * slot_bytes();
  std::vector<std::int32_t> own = pool->allocate(100);
  EXPECT_EQ(pool->stats().resident_bytes, capacity * pool->storage().block_bytes());
  BlockTable table(pool);
  extend_open(table, tokens_from(0, 4 * kSlots));
  EXPECT_EQ(pool->residency().capacity(), 4);
  EXPECT_EQ(pool->stats().resident_bytes,
            4 * pool->storage().block_bytes() + kSlots * slot_bytes());
  EXPECT_LE(pool->stats().resident_bytes, limit);
  EXPECT_EQ(slots_in_memory(*pool), kSlots);
  table.free();
  EXPECT_EQ(slots_in_memory(*pool), 8);  // a few stay for whoever is next
  EXPECT_EQ(pool->residency().capacity(), capacity - 8 * slabs_of_slot);
  pool->check();
}

// Many at once, each of which opens and closes what it can: never more memory than there should be.
TEST_F(OpenRoomTest, ThreadsShareTheRoom) {
  std::atomic<bool> stops{false};
  std::thread watcher([&] {
    while (!stops) pool->check();
  });
  std::vector<std::thread> threads;
  std::atomic<int> appended{0}, refused{0};
  for (unsigned worker = 0; worker < 4; ++worker) {
    threads.emplace_back([&, worker] {
      std::mt19937 random(worker);
      for (int step = 0; step < 120; ++step) {
        BlockTable table(pool);
        OpenSequence model(pool->geometry());
        try {
          for (const std::int64_t count : {1 + random() % 60, 1 + random() % 9}) {
            const Tokens tokens = tokens_from(random() % 1000, count);
            if (random() % 2 == 0) {
              append_open(table, tokens);
              model.append(tokens);
            } else {
              extend_open(table, tokens);
              model.extend(tokens);
            }
            ++appended;
          }
        } catch (const OutOfBlocks&) {
          ++refused;
        }
        ASSERT_TRUE(model.is_what(table));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  stops = true;
  watcher.join();
  EXPECT_GT(appended, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(pool->stats().open_blocks, 0);
  EXPECT_EQ(pool->open_room().left(), kSlots);
  pool->check();
}

TEST(OpenRoom, WithoutALimitAClaimHasWhatItWants) {
  BlockPool plain(KvGeometry{.num_blocks = 4, .num_kv_heads = 1, .head_dim = 8, .v_head_dim = 8});
  BlockPool open(KvGeometry{
      .num_blocks = 4, .num_kv_heads = 1, .head_dim = 8, .v_head_dim = 8, .dtype = DType::int4});
  for (BlockPool* pool : {&plain, &open}) {
    OpenRoom& room = pool->open_room();
    EXPECT_FALSE(room.is_limited());
    const OpenRoom::Claim all(room, {"f", "n", 1}, 1000, 1000), more(room, {"f", "n", 1}, 7, 9);
    EXPECT_EQ(all.slots(), 1000);
    EXPECT_EQ(more.slots(), 9);
    EXPECT_GT(room.left(), 1000);
    room.settle();
    pool->check();
  }
}

}  // namespace
}  // namespace quire::testing
