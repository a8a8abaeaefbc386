// Tables with open blocks in several threads: shared blocks, of which some threads read rows open
// while others seal them, and slots that go from hand to hand. Meant for ThreadSanitizer as well.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "kv/table/open_sequence.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "support/run_threads.h"
#include "support/temporary_path.h"

namespace quire::testing {
namespace {

constexpr int kThreads = 4;

class OpenColumnsConcurrency : public ::testing::TestWithParam<OpenKind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, OpenColumnsConcurrency,
                         ::testing::Values(OpenKind{DType::int4, 2},
                                           OpenKind{DType::float8_e4m3fn, 2}),
                         NameOfKind());

// Forks of one table, each of which goes on in a thread of its own: whoever seals the blocks that
// they share, each is what it would be alone.
void seal_shared_blocks(const std::shared_ptr<BlockPool>& pool) {
  const std::int64_t used = pool->num_used();
  const std::int64_t open = pool->stats().open_blocks;
  for (std::uint32_t round = 0; round < 20; ++round) {
    BlockTable root(pool);
    OpenSequence root_model(pool->geometry());
    const auto prompt = tokens_from(1000 * round, 5 + round % 7);
    append_open(root, prompt);
    root_model.append(prompt);
    std::atomic<int> ready{0};
    run_threads(kThreads, [&](int worker) {
      std::mt19937 random(100 * round + worker);
      auto table = root.fork();
      OpenSequence model = root_model;
      for (++ready; ready < kThreads;) std::this_thread::yield();
      for (int step = 0; step < 30; ++step) {
        const auto tokens = tokens_from(random() % 100000, 1 + random() % 4);
        if (random() % 8 == 0) {
          const std::int64_t length = random() % (model.size() + 1);
          table->truncate(length);
          model.truncate(length);
        }
        append_open(*table, tokens);
        model.append(tokens);
        if (random() % 6 == 0) {
          auto fork = table->fork();
          table.swap(fork);  // the older one goes
        }
        if (step % 5 == 0) {
          ASSERT_TRUE(model.is_what(*table)) << worker << " " << step;
        }
      }
      ASSERT_TRUE(model.is_what(*table));
    });
    ASSERT_TRUE(root_model.is_what(root));
    pool->check();
  }
  EXPECT_EQ(pool->num_used(), used);
  EXPECT_EQ(pool->stats().open_blocks, open);
}

TEST_P(OpenColumnsConcurrency, SharedBlocksSealedByAll) {
  seal_shared_blocks(new_open_pool(GetParam(), 400));
}

// With memory for a few of the tiles, which leave it and come back meanwhile. A sequence that stays
// takes more than there is, so that some leave however the threads follow each other.
TEST_P(OpenColumnsConcurrency, SharedBlocksSealedByAllInAFile) {
  const TemporaryPath path;
  const auto pool = new_backed_open_pool(GetParam(), path.text(), 600, 88);
  BlockTable idle(pool);
  OpenSequence idle_model(pool->geometry());
  const auto tokens = tokens_from(77, 800);
  append_open(idle, tokens);
  idle_model.append(tokens);
  seal_shared_blocks(pool);
  EXPECT_TRUE(idle_model.is_what(idle));
  EXPECT_GT(pool->residency().evictions(), 0);
}

// One table that some extend and others read, fork or insert into a cache, in a pool that runs out.
// Both tokens of a pair are the same, so that whatever they were rounded to they are alike.
void share_one_table(const std::shared_ptr<BlockPool>& pool) {
  PrefixCache cache(pool);
  BlockTable table(pool);
  run_threads(kThreads, [&](int worker) {
    for (std::uint32_t step = 0; step < 300; ++step) {
      try {
        if (worker == 0) {
          const std::uint32_t token = step;
          append_open(table, {token, token});
          const std::int64_t length = std::min<std::int64_t>(table.num_tokens(), 2 * (step % 5));
          if (step % 32 == 31) table.truncate(length);
          if (step % 50 == 49) cache.clear();
        } else if (worker == 1) {
          const auto fork = table.fork();
          append_open(*fork, {9, 9});
          cache.insert(std::vector<std::int64_t>(fork->num_tokens(), 7 + step), *fork);
        } else if (worker == 2) {
          const auto found = cache.match(std::vector<std::int64_t>(11, step));
          if (found->num_tokens() % 2 == 0) append_open(*found, {8, 8, 8, 8});
        } else {
          const auto fork = table.fork();
          if (step % 4 == 0 && pool->residency().is_limited()) fork->offload();
          if (step % 3 == 0) {
            std::vector<std::int64_t> kept = fork->positions();
            if (kept.size() > 4) kept.erase(kept.begin(), kept.begin() + 4);
            fork->keep(kept);
          }
          const std::int64_t count = fork->num_tokens();
          std::vector<float> k(count * 8), v(count * 4);
          fork->gather(1, count, k.data(), v.data());
          ASSERT_EQ(count % 2, 0);
          for (std::int64_t t = 0; t < count; t += 2) {
            ASSERT_TRUE(std::equal(&k[t * 8], &k[t * 8 + 8], &k[t * 8 + 8])) << t;
            ASSERT_TRUE(std::equal(&v[t * 4], &v[t * 4 + 4], &v[t * 4 + 4])) << t;
          }
        }
      } catch (const OutOfBlocks&) {
        if (worker == 0) table.truncate(0);
      }
    }
  });
  table.free();
  cache.clear();
  EXPECT_EQ(pool->num_used(), 0);
  EXPECT_EQ(pool->stats().open_blocks, 0);
  pool->check();
}

TEST_P(OpenColumnsConcurrency, OneTableForAll) { share_one_table(new_open_pool(GetParam(), 48)); }

// And where memory for open rows runs out as well.
TEST_P(OpenColumnsConcurrency, OneTableForAllInAFile) {
  const TemporaryPath path;
  share_one_table(new_backed_open_pool(GetParam(), path.text(), 48, 40));
}

}  // namespace
}  // namespace quire::testing
