// Events: what each call tells, that all of them together foretell the books, and that a listener
// may do what it likes.
#include "quire/kv/ledger/block_events.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kv/prefix/prefix_cache_machine.h"
#include "kv/table/block_table_machine.h"

namespace quire::testing {
namespace {

using Kind = BlockEvent::Kind;

class Listener final : public BlockListener {
 public:
  explicit Listener(std::function<void(const BlockEvent&)> action) : action_(std::move(action)) {}
  void hear(const BlockEvent& event) noexcept override { action_(event); }

 private:
  std::function<void(const BlockEvent&)> action_;
};

std::shared_ptr<Listener> listener(std::function<void(const BlockEvent&)> action) {
  return std::make_shared<Listener>(std::move(action));
}

std::string text_of(const BlockEvent& event) {
  constexpr const char* kNames[] = {"allocated", "shared",   "copied", "evicted",
                                    "offloaded", "restored", "freed"};
  std::string text = kNames[static_cast<int>(event.kind)];
  for (const std::int32_t block : event.blocks) text += ' ' + std::to_string(block);
  return text;
}

// Which blocks are in use by what was told, and how much was copied and evicted.
struct Told {
  explicit Told(std::int64_t num_blocks) : in_use(num_blocks) {}

  void note(const BlockEvent& event) {
    if (event.kind == Kind::copied) {
      EXPECT_EQ(event.blocks.size(), 2u);
      EXPECT_TRUE(in_use[event.blocks[0]] && in_use[event.blocks[1]]);
      ++copies;
      return;
    }
    EXPECT_FALSE(event.blocks.empty());
    for (const std::int32_t block : event.blocks) {
      EXPECT_EQ(in_use[block], event.kind != Kind::allocated) << text_of(event);
      evictions += event.kind == Kind::evicted;
      if (event.kind == Kind::allocated || event.kind == Kind::freed) {
        in_use[block] = event.kind == Kind::allocated;
      }
    }
  }

  void expect_books(const BlockPool& pool) const {
    const std::vector<std::int32_t> counts = pool.ref_counts();
    for (std::size_t block = 0; block < counts.size(); ++block) {
      ASSERT_EQ(in_use[block], counts[block] > 0) << "block " << block;
    }
  }

  std::vector<bool> in_use;
  std::int64_t copies = 0, evictions = 0;
};

TEST(BlockEvents, WhatEachCallTells) {
  const auto pool = new_pool(6, 4, 1);
  std::vector<std::string> told;
  pool->set_listener(listener([&](const BlockEvent& event) { told.push_back(text_of(event)); }));
  const auto expect = [&](const std::vector<std::string>& expected) {
    EXPECT_EQ(told, expected);
    told.clear();
  };
  const std::vector<std::int32_t> mine = pool->allocate(2);
  pool->retain(std::vector{mine[0]});
  expect({"allocated 0 1", "shared 0"});
  pool->release(std::vector{1, 0, 0});
  expect({"freed 1 0"});
  EXPECT_THROW(pool->allocate(7), OutOfBlocks);
  EXPECT_THROW(pool->release(std::vector{3}), ValueError);
  expect({});
  {
    PrefixCache cache(pool);
    BlockTable table(pool);
    append_tokens(table, {1, 2, 3, 4, 5, 6});
    expect({"allocated 0 1"});
    const auto child = table.fork();
    append_tokens(*child, {7});
    expect({"shared 0 1", "allocated 2", "copied 1 2"});
    child->truncate(4);
    child->drop_before(4);
    expect({"freed 2"});
    cache.insert(std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}, table);
    expect({"shared 0 1"});
    table.free();
    expect({});
    const auto match = cache.match(std::vector<std::int64_t>{1, 2, 3, 4, 5, 9});
    expect({"shared 0 1", "allocated 2", "copied 1 2"});
    match->close();
    expect({"freed 2"});
    EXPECT_EQ(cache.evict(1), 1);
    expect({"evicted 1", "freed 1"});
  }
  expect({"freed 0"});
  pool->set_listener(nullptr);
  pool->allocate(1);
  expect({});
}

TEST(BlockEvents, ForetellTheBooksOfACache) {
  Told told(20);
  PrefixCacheMachine machine({20, 4, 12}, std::mt19937(1));
  machine.pool()->set_listener(listener([&](const BlockEvent& event) { told.note(event); }));
  for (int step = 0; step < 5000; ++step) {
    ASSERT_NO_FATAL_FAILURE(machine.step());
    ASSERT_NO_FATAL_FAILURE(told.expect_books(*machine.pool())) << "at step " << step;
    ASSERT_EQ(told.evictions, machine.evictions());
  }
  EXPECT_GT(told.evictions, 0);
  machine.finish();
  told.expect_books(*machine.pool());
}

TEST(BlockEvents, ForetellTheBooksOfTables) {
  Told told(24);
  BlockTableMachine machine(new_pool(24, 4), std::mt19937(2));
  machine.pool()->set_listener(listener([&](const BlockEvent& event) { told.note(event); }));
  for (int step = 0; step < 5000; ++step) {
    machine.step();
    ASSERT_NO_FATAL_FAILURE(told.expect_books(*machine.pool())) << "at step " << step;
    ASSERT_EQ(told.copies, machine.copies());
  }
  EXPECT_GT(told.copies, 0);
}

// No lock is held: every method can be called, also of the table that made the event; and what
// comes of it is told afterwards.
TEST(BlockEvents, AListenerMayUseEverything) {
  const auto pool = new_pool(16, 4, 1);
  std::vector<std::string> told;
  bool inside = false;
  BlockTable table(pool), other(pool);
  PrefixCache cache(pool);
  pool->set_listener(listener([&](const BlockEvent& event) {
    EXPECT_FALSE(inside);
    inside = true;
    told.push_back(text_of(event));
    if (told.size() == 1) {
      table.extend(1);
      other.extend(4);
      cache.insert(std::vector<std::int64_t>{1, 2, 3, 4}, table);
      cache.match(std::vector<std::int64_t>{1, 2, 3, 4, 5})->fork();
      pool->check();
    }
    inside = false;
  }));
  table.extend(3);
  EXPECT_EQ(told, (std::vector<std::string>{"allocated 0", "allocated 1", "shared 0 0 0"}));

  // and be replaced by itself, or go
  std::weak_ptr<BlockListener> gone;
  {
    auto last = listener([&](const BlockEvent&) { pool->set_listener(nullptr); });
    gone = last;
    pool->set_listener(std::move(last));
  }
  other.free();
  EXPECT_TRUE(gone.expired());
}

TEST(BlockEvents, OneAtATimeWhateverTheThreads) {
  const auto pool = new_pool(64, 4, 1);
  Told told(64);
  std::atomic<int> inside = 0;
  pool->set_listener(listener([&](const BlockEvent& event) {
    EXPECT_EQ(++inside, 1);
    told.note(event);
    --inside;
  }));
  const auto work = [&] {
    BlockTable table(pool);
    for (int i = 0; i < 2000; ++i) {
      table.extend(3);
      const auto child = table.fork();
      child->extend(2);
      if (i % 8 == 7) table.truncate(0);
      pool->release(pool->allocate(1));
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool->num_used(), 0);
  told.expect_books(*pool);
  EXPECT_GT(told.copies, 0);
}

}  // namespace
}  // namespace quire::testing
