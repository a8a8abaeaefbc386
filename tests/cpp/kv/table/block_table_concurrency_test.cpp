// Tables of one pool used from several threads at once; for ThreadSanitizer above all.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "kv/table/token_rows.h"
#include "quire/kv/table/block_table.h"
#include "quire/kv/table/held_tables.h"
#include "support/run_threads.h"

namespace quire::testing {
namespace {

constexpr int kThreads = 4;

using Tokens = std::vector<std::uint32_t>;

// Each thread forks the common root and its own tables, appends, rolls back and frees, and finds in
// every table what it wrote, whatever the others do to the blocks they share.
TEST(BlockTableConcurrency, ForkAppendFree) {
  const auto pool = new_pool(48, 4);
  BlockTable root(pool);
  Tokens root_tokens(6);
  for (std::uint32_t& token : root_tokens) token = 1;
  append_tokens(root, root_tokens);

  run_threads(kThreads, [&](int worker) {
    struct Sequence {
      std::unique_ptr<BlockTable> table;
      Tokens tokens;
    };
    std::mt19937 random(worker);
    std::vector<Sequence> mine;
    for (std::uint32_t step = 0; step < 1500; ++step) {
      if (mine.empty() || random() % 8 == 0) {
        mine.push_back({root.fork(), root_tokens});
      } else if (random() % 5 == 0) {
        Sequence& parent = mine[random() % mine.size()];
        Sequence child{parent.table->fork(), parent.tokens};
        mine.push_back(std::move(child));
      }
      Sequence& sequence = mine[random() % mine.size()];
      if (random() % 4 == 0) {
        const std::size_t length = random() % (sequence.tokens.size() + 1);
        sequence.table->truncate(static_cast<std::int64_t>(length));
        sequence.tokens.resize(length);
      }
      const Tokens added(1 + random() % 3, 1000 * worker + step + 2);
      try {
        append_tokens(*sequence.table, added);
        sequence.tokens.insert(sequence.tokens.end(), added.begin(), added.end());
      } catch (const OutOfBlocks&) {
        mine.clear();
        continue;
      }
      ASSERT_TRUE(holds_tokens(*sequence.table, sequence.tokens));
      if (mine.size() > 4) mine.erase(mine.begin() + random() % mine.size());
      if (step % 64 == 0) pool->check();
    }
  });

  EXPECT_TRUE(holds_tokens(root, root_tokens));
  root.free();
  EXPECT_EQ(pool->num_free(), 48);
  EXPECT_EQ(pool->stats().filled_tokens, 0);
  pool->check();
}

// Tables that share their last block, all extended in the same moment: each ends with its own.
TEST(BlockTableConcurrency, SharedLastBlockExtendedByAll) {
  const auto pool = new_pool(2 * kThreads + 2, 8);
  const Tokens common = {1, 2, 3};
  std::vector<std::unique_ptr<BlockTable>> tables(kThreads);
  for (int round = 0; round < 200; ++round) {
    tables[0] = std::make_unique<BlockTable>(pool);
    append_tokens(*tables[0], common);
    for (int i = 1; i < kThreads; ++i) tables[i] = tables[0]->fork();
    std::atomic<int> ready{0};
    run_threads(kThreads, [&](int worker) {
      for (++ready; ready < kThreads;) std::this_thread::yield();
      append_tokens(*tables[worker], {std::uint32_t(10 + worker), std::uint32_t(20 + worker)});
    });
    for (int i = 0; i < kThreads; ++i) {
      Tokens expected = common;
      expected.push_back(10 + i);
      expected.push_back(20 + i);
      ASSERT_TRUE(holds_tokens(*tables[i], expected));
    }
    const PoolStats stats = pool->stats();
    ASSERT_EQ(stats.used, kThreads);
    ASSERT_EQ(stats.shared, 0);
    ASSERT_EQ(stats.filled_tokens, 5 * kThreads);
    pool->check();
  }
}

// One table, used by all: its tokens stay whole, two by two, whoever appends, reads or rolls back.
TEST(BlockTableConcurrency, OneTableForAll) {
  const auto pool = new_pool(64, 4, 1);
  BlockTable table(pool);
  run_threads(kThreads, [&](int worker) {
    for (std::uint32_t step = 0; step < 500; ++step) {
      const std::uint32_t token = 1 + 1000 * worker + step;
      if (worker == 0 && step % 16 == 0) {
        table.truncate(0);
      } else if (worker < 2) {
        try {
          append_tokens(table, {token, token});
        } catch (const OutOfBlocks&) {
          table.truncate(0);
        }
      } else {
        const auto fork = table.fork();
        const std::int64_t count = fork->num_tokens();
        std::vector<std::uint32_t> k(count * 6), v(count * 4);
        ASSERT_EQ(count % 2, 0);
        ASSERT_EQ(fork->gather(0, count, k.data(), v.data()), count);
        for (std::int64_t t = 0; t < count; t += 2) ASSERT_EQ(k[6 * t], k[6 * t + 6]);
      }
    }
  });
  table.free();
  EXPECT_EQ(pool->num_free(), 64);
  pool->check();
}

// One table whose window slides: what it still holds is whole, whoever reads it meanwhile, and what
// it has dropped may be another table's by then.
TEST(BlockTableConcurrency, DropsWhileOthersRead) {
  const auto pool = new_pool(48, 4, 1);
  BlockTable table(pool);
  append_tokens(table, {1, 1});
  run_threads(kThreads, [&](int worker) {
    for (std::uint32_t step = 0; step < 500; ++step) {
      if (worker == 0) {
        const std::uint32_t token = 2 + step;
        try {
          append_tokens(table, {token, token});
        } catch (const OutOfBlocks&) {
          table.truncate(0);
        }
        table.drop_before(table.num_tokens() - 12, 2);
      } else if (worker == 1) {
        BlockTable other(pool);
        try {
          append_tokens(other, Tokens(9, 900'000 + step));
        } catch (const OutOfBlocks&) {
          continue;
        }
        ASSERT_TRUE(holds_tokens(other, Tokens(9, 900'000 + step)));
      } else {
        const auto fork = table.fork();
        const std::vector<std::int32_t> blocks = fork->blocks();
        const ArrayView k = pool->storage().k_cache(0);
        const auto bits_at = [&](std::int64_t t) {
          std::uint32_t bits;
          std::memcpy(&bits, k.at(blocks[t / 4], t % 4), sizeof bits);
          return bits;
        };
        for (std::int64_t t = 0; t + 1 < fork->num_tokens(); t += 2) {
          if (blocks[t / 4] == kHole) continue;
          ASSERT_EQ(bits_at(t), bits_at(t + 1));
        }
        if (step % 8 == 0) fork->drop_before(fork->num_tokens());
        if (step % 8 == 1 && blocks.size() > 4) {  // the last tokens move into shared blocks
          const std::vector<std::int64_t> positions = fork->positions();
          try {
            fork->keep(std::span(positions).last(5));
          } catch (const OutOfBlocks&) {
            continue;
          }
          std::vector<std::uint32_t> rows(5 * 6);
          ASSERT_EQ(fork->gather(0, 5, rows.data(), rows.data()), 5);
        }
      }
    }
  });
  table.free();
  EXPECT_EQ(pool->num_free(), 48);
  pool->check();
}

// While tables are held, what they hold stays where it is; held in any order, nobody waits for
// ever.
TEST(HeldTablesConcurrency, ReadersSeeWholeTables) {
  const auto pool = new_pool(64, 4, 1);
  std::array<std::unique_ptr<BlockTable>, 3> tables;
  for (auto& table : tables) table = std::make_unique<BlockTable>(pool);
  run_threads(kThreads, [&](int worker) {
    std::mt19937 random(worker);
    for (std::uint32_t step = 0; step < 800; ++step) {
      if (worker < 2) {
        const std::uint32_t token = 1 + 1000 * worker + step;
        BlockTable& table = *tables[random() % 3];
        try {
          append_tokens(table, {token, token});
        } catch (const OutOfBlocks&) {
          table.truncate(0);
        }
        if (random() % 16 == 0) table.truncate(0);
        continue;
      }
      const BlockTable* const list[] = {tables[random() % 3].get(), tables[random() % 3].get(),
                                        tables[random() % 3].get()};
      const HeldTables held("attend", list);
      std::vector<std::int32_t> packed(3 * held.max_blocks()), lengths(3);
      held.pack(-1, packed.data(), lengths.data());
      const ArrayView k = pool->storage().k_cache(0);
      for (std::int64_t i = 0; i < 3; ++i) {
        const auto token_at = [&](std::int64_t t) {
          std::uint32_t bits;
          std::memcpy(&bits, k.at(packed[i * held.max_blocks() + t / 4], t % 4), sizeof bits);
          return bits;
        };
        for (std::int64_t t = 0; t + 1 < lengths[i]; t += 2)
          ASSERT_EQ(token_at(t), token_at(t + 1));
      }
    }
  });
  for (auto& table : tables) table->free();
  EXPECT_EQ(pool->num_free(), 64);
  pool->check();
}

}  // namespace
}  // namespace quire::testing
