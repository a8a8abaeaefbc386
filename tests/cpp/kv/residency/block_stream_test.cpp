#include "quire/kv/residency/block_stream.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "quire/kv/pool/block_pool.h"
#include "support/temporary_path.h"

namespace quire::testing {
namespace {

using Blocks = std::vector<std::int32_t>;

// Blocks of four pages, each element of which tells where it lies.
class BlockStreamTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kBlocks = 200, kLayers = 2;

  BlockStreamTest() { open(); }

  void open(std::int64_t more_bytes = 0) {
    pool.reset();
    const std::int64_t dim = BlockMemory::page_bytes() / 128;
    const KvGeometry geometry{.num_blocks = kBlocks,
                              .block_size = 64,
                              .num_kv_heads = 1,
                              .head_dim = dim,
                              .v_head_dim = dim,
                              .num_layers = kLayers,
                              .dtype = DType::float32};
    slab_bytes = 4 * BlockMemory::page_bytes();
    // 255 tokens lie in 5 blocks of 64
    resident_bytes = (4 * 5 + 2 * kLayers) * slab_bytes + more_bytes;
    pool = std::make_unique<BlockPool>(geometry, BackingFile{path.text(), resident_bytes});
    pool->allocate(kBlocks);
    std::byte* data = pool->storage().memory().data();
    for (std::int64_t slab = 0; slab < kBlocks * kLayers; ++slab) {
      for (std::int64_t byte = 0; byte < slab_bytes; byte += 512) {
        *reinterpret_cast<std::int64_t*>(data + slab * slab_bytes + byte) = slab;
      }
      pool->residency().part_with(std::vector{slab});
    }
  }

  bool holds(std::int64_t layer, std::int32_t block) const {
    const std::int64_t slab = layer * kBlocks + block;
    const std::byte* data = pool->storage().memory().data() + slab * slab_bytes;
    for (std::int64_t byte = 0; byte < slab_bytes; byte += 512) {
      if (*reinterpret_cast<const std::int64_t*>(data + byte) != slab) return false;
    }
    return true;
  }

  // Bytes of the file that are in memory, as the system sees it.
  std::int64_t bytes_in_memory() const {
    const std::int64_t page = BlockMemory::page_bytes();
    const std::int64_t bytes = pool->storage().nbytes();
    std::vector<unsigned char> states(static_cast<std::size_t>(bytes / page));
    mincore(pool->storage().memory().data(), static_cast<std::size_t>(bytes), states.data());
    return page * std::count_if(states.begin(), states.end(), [](auto s) { return s & 1; });
  }

  // Whether that is worth looking at.
  bool is_on_disk() const { return bytes_in_memory() < pool->storage().nbytes() / 2; }

  static std::vector<Blocks> random_stretches(unsigned seed, std::size_t most) {
    std::mt19937 random(seed);
    std::vector<Blocks> stretches(1 + random() % 30);
    for (Blocks& blocks : stretches) {
      while (blocks.size() < most) {
        const auto block = static_cast<std::int32_t>(random() % kBlocks);
        if (std::count(blocks.begin(), blocks.end(), block) == 0) blocks.push_back(block);
      }
    }
    return stretches;
  }

  TemporaryPath path;
  std::unique_ptr<BlockPool> pool;
  std::int64_t slab_bytes = 0, resident_bytes = 0;
};

// Blocks that several stretches share, near and far, are there each time, and never too many.
TEST_F(BlockStreamTest, EveryStretchIsInMemoryInItsTurn) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::int64_t layer = seed % kLayers;
    {
      BlockStream stream(pool->residency(), layer);
      ASSERT_EQ(stream.most_blocks(), 5);
      const std::vector<Blocks> stretches = random_stretches(seed, 5);
      ASSERT_TRUE(stream.start(stretches));
      for (std::size_t i = 0; i < stretches.size(); ++i) {
        stream.wait_for(i);
        const std::int64_t page = BlockMemory::page_bytes();
        for (const std::int32_t block : stretches[i]) {
          unsigned char states[4];
          mincore(pool->storage().memory().data() + (layer * kBlocks + block) * slab_bytes,
                  static_cast<std::size_t>(4 * page), states);
          for (const unsigned char state : states) ASSERT_EQ(state & 1, 1);
          ASSERT_TRUE(holds(layer, block));
        }
        if (is_on_disk()) {
          ASSERT_LE(bytes_in_memory(), resident_bytes);
        }
        stream.done_with(i);
      }
    }
    if (is_on_disk()) {
      ASSERT_LE(bytes_in_memory(), pool->residency().kept_bytes());
    }
    pool->check();
  }
}

TEST_F(BlockStreamTest, WhatFitsInAllLayersMovesIn) {
  open(100 * slab_bytes);
  Residency& residency = pool->residency();
  Blocks blocks;
  const auto room = static_cast<std::int32_t>(residency.capacity() / kLayers);
  for (std::int32_t block = 0; block < room; ++block) blocks.push_back(block);
  for (const bool again : {false, true}) {
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      BlockStream stream(residency, layer);
      ASSERT_EQ(stream.start({blocks}), !again);
      if (again) continue;
      stream.wait_for(0);
      for (const std::int32_t block : blocks) ASSERT_TRUE(holds(layer, block));
      stream.done_with(0);
    }
  }
  EXPECT_EQ(residency.num_blocks(residency.missing(residency.slabs(blocks))), 0);
}

// Going round and round more than fits, some of it is found in memory each time.
TEST_F(BlockStreamTest, MoreThanFitsLeavesAloneWhatIsKept) {
  open(60 * slab_bytes);
  Residency& residency = pool->residency();
  std::vector<Blocks> stretches;
  for (std::int32_t block = 0; block < kBlocks; block += 5) {
    stretches.push_back({block, block + 1, block + 2, block + 3, block + 4});
  }
  Blocks all;
  for (const Blocks& blocks : stretches) all.insert(all.end(), blocks.begin(), blocks.end());
  const std::vector<std::int64_t> slabs = residency.slabs(0, all);
  std::vector<std::int64_t> missing;
  for (int round = 0; round < 3; ++round) {
    BlockStream stream(residency, 0);
    ASSERT_TRUE(stream.start(stretches));
    for (std::size_t i = 0; i < stretches.size(); ++i) {
      stream.wait_for(i);
      for (const std::int32_t block : stretches[i]) ASSERT_TRUE(holds(0, block));
      stream.done_with(i);
    }
    if (round == 0) missing = residency.missing(slabs);
    EXPECT_EQ(residency.missing(slabs), missing);
    EXPECT_EQ(residency.kept_bytes(), residency.capacity() * slab_bytes);
  }
}

TEST_F(BlockStreamTest, WhatIsReadOnceLeavesWhatIsInUseAlone) {
  open(60 * slab_bytes);
  Residency& residency = pool->residency();
  Blocks used;
  for (std::int32_t block = 0; block < residency.capacity() / kLayers; ++block) {
    used.push_back(kBlocks - 1 - block);
  }
  pool->keep_resident(used);
  std::vector<std::vector<std::int64_t>> stretches;
  for (std::int32_t block = 0; block < 12; block += 3) {  // for which room could be made
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      stretches.push_back(residency.slabs(layer, Blocks{block, block + 1, block + 2}));
    }
  }
  BlockStream stream(residency);
  ASSERT_TRUE(stream.start_once(stretches));
  for (std::size_t i = 0; i < stretches.size(); ++i) {
    stream.wait_for(i);
    for (const std::int64_t slab : stretches[i]) {
      ASSERT_TRUE(holds(slab / kBlocks, static_cast<std::int32_t>(slab % kBlocks)));
    }
    stream.done_with(i);
  }
  EXPECT_TRUE(residency.missing(residency.slabs(used)).empty());
}

TEST_F(BlockStreamTest, AStreamThatIsLeftEarlyGivesBackWhatItRead) {
  for (const std::size_t stop : {0, 1, 3, 9}) {
    const std::vector<Blocks> stretches = random_stretches(7, 5);
    ASSERT_GT(stretches.size(), 10u);
    {
      BlockStream stream(pool->residency(), 1);
      ASSERT_TRUE(stream.start(stretches));
      for (std::size_t i = 0; i < stop; ++i) {
        stream.wait_for(i);
        stream.done_with(i);
      }
    }
    pool->residency().take_window();  // which waits for what is left to do
    if (is_on_disk()) {
      ASSERT_LE(bytes_in_memory(), pool->residency().kept_bytes());
    }
  }
}

// Somebody else finishes what takes long, and who wants the window next waits for that, or is
// interrupted.
TEST_F(BlockStreamTest, WhatIsUnfinishedKeepsTheNextStreamWaitingAlone) {
  static std::atomic<bool> may_end, has_ended;
  struct Slow final : Residency::Unfinished {
    void finish() noexcept override {
      while (!may_end) std::this_thread::yield();
      has_ended = true;
    }
  };
  Residency& residency = pool->residency();
  may_end = has_ended = false;
  {
    const auto window = residency.take_window();
    residency.finish_later(std::make_unique<Slow>());
  }
  EXPECT_FALSE(has_ended);
  {
    const Interruptible interruptible([] { return true; });
    EXPECT_THROW(residency.take_window(), Interrupted);
  }
  EXPECT_FALSE(has_ended);
  std::thread next([&] {
    const auto window = residency.take_window();
    EXPECT_TRUE(has_ended);
  });
  may_end = true;
  next.join();
  {  // nor does a pool go before
    const auto window = residency.take_window();
    may_end = has_ended = false;
    residency.finish_later(std::make_unique<Slow>());
  }
  std::thread ends([] { may_end = true; });
  pool.reset();
  EXPECT_TRUE(has_ended);
  ends.join();
}

// For ThreadSanitizer: streams wait for each other while others keep blocks and part with them.
TEST_F(BlockStreamTest, SeveralThreads) {
  open(40 * slab_bytes);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned worker = 0; worker < 4; ++worker) {
    threads.emplace_back([&, worker] {
      std::mt19937 random(worker);
      for (unsigned step = 0; step < 12; ++step) {
        const std::vector<Blocks> stretches = random_stretches(worker * 100 + step, 5);
        if (worker % 2 == 0) {
          Residency& residency = pool->residency();
          for (const Blocks& blocks : stretches) {
            random() % 3 == 0 ? (void)residency.part_with(residency.slabs(blocks))
                              : pool->keep_resident(blocks);
            pool->stats();
            for (const std::int32_t block : blocks) wrong += !holds(0, block);
            pool->settle(blocks);
          }
          continue;
        }
        BlockStream stream(pool->residency(), 1);
        const bool streams = stream.start(stretches);
        for (std::size_t i = 0; i < stretches.size(); ++i) {
          if (streams) stream.wait_for(i);
          for (const std::int32_t block : stretches[i]) wrong += !holds(1, block);
          if (streams) stream.done_with(i);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  pool->check();
  if (is_on_disk()) {
    EXPECT_LE(bytes_in_memory(), resident_bytes);
  }
}

}  // namespace
}  // namespace quire::testing
