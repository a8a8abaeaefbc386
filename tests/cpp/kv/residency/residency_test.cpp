#include "quire/kv/residency/residency.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "quire/kv/ledger/block_ledger.h"
#include "support/temporary_path.h"

namespace quire {

using testing::TemporaryPath;
using Need = Residency::Need;
using Slabs = std::vector<std::int64_t>;

// A small pool's residency: 2 layers of 40 blocks, each slab a page, 10 to 30 of which are kept.
class ResidencyTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kBlocks = 40, kLayers = 2;

  static KvGeometry geometry() {
    return {.num_blocks = kBlocks,
            .block_size = 128,
            .num_kv_heads = 1,
            .head_dim = BlockMemory::page_bytes() / 1024,
            .v_head_dim = BlockMemory::page_bytes() / 1024,
            .num_layers = kLayers,
            .dtype = DType::float32};
  }

  Residency make(std::int64_t capacity) {
    return {storage, Residency::least_bytes(storage) + (capacity - 2 * kLayers) * slab_bytes(),
            [this](std::span<Need> asked) { std::copy(needs.begin(), needs.end(), asked.begin()); },
            [this](std::int32_t block, bool kept) { told.emplace_back(block, kept); }};
  }

  std::int64_t slab_bytes() const { return storage.block_bytes(); }
  static Slabs kept(const Residency& residency) {
    Slabs slabs;
    for (std::int64_t slab = 0; slab < kBlocks * kLayers; ++slab) {
      if (residency.missing(Slabs{slab}).empty()) slabs.push_back(slab);
    }
    return slabs;
  }
  static void break_books(Residency& residency) { --residency.kept_layers_[0]; }

  TemporaryPath path;
  KvStorage storage{geometry(), path.text()};
  std::vector<Need> needs = std::vector<Need>(kBlocks, Need::holders);
  std::vector<std::pair<std::int32_t, bool>> told;
};

namespace {

TEST_F(ResidencyTest, TellsOfBlocksThatAreKeptInAllLayersAndNoLonger) {
  using Told = std::vector<std::pair<std::int32_t, bool>>;
  Residency residency = make(10);
  residency.keep(Slabs{3, 4});
  EXPECT_EQ(told, Told());
  residency.keep(Slabs{4, 43, 44, 45});
  EXPECT_EQ(told, (Told{{3, true}, {4, true}}));
  told.clear();
  residency.part_with(Slabs{5, 44, 45});
  residency.part_with(Slabs{4, 44});
  EXPECT_EQ(told, (Told{{4, false}}));
  told.clear();
  residency.tell_of(std::vector<std::int32_t>{3, -1, 4});
  EXPECT_EQ(told, (Told{{3, true}, {4, false}}));
}

// As the pages of an earlier owner would be read one by one otherwise.
TEST_F(ResidencyTest, WhatIsKeptAnewIsRead) {
  Residency residency = make(10);
  storage.memory().read_only_what_is_asked();
  Slabs all;
  for (std::int64_t slab = 0; slab < kBlocks * kLayers; ++slab) {
    storage.memory().data()[slab * slab_bytes()] = std::byte{1};
    all.push_back(slab);
  }
  residency.settle(all);
  const auto in_memory = [&](std::int64_t slab) {
    unsigned char state = 0;
    mincore(storage.memory().data() + slab * slab_bytes(), 1, &state);
    return (state & 1) != 0;
  };
  if (in_memory(0)) GTEST_SKIP() << "this directory's file system lies in memory";
  residency.keep(Slabs{7});
  residency.keep_and_bring_in(Slabs{3, 4, 5, 7, 20, 41, 42, 43, 44, 45, 46, 47});
  EXPECT_EQ(residency.missing(Slabs{3, 41, 46, 47}), (Slabs{46, 47}));
  for (const std::int64_t slab : {3, 4, 5, 20, 41, 45}) EXPECT_TRUE(in_memory(slab)) << slab;
  for (const std::int64_t slab : {2, 6, 7, 46, 47, 48}) EXPECT_FALSE(in_memory(slab)) << slab;
}

TEST_F(ResidencyTest, ASlabIsWholePages) {
  EXPECT_EQ(slab_bytes(), BlockMemory::page_bytes());
  KvGeometry odd = geometry();
  odd.head_dim += 1;
  const TemporaryPath other;
  const KvStorage uneven(odd, other.text());
  EXPECT_EQ(uneven.block_bytes(), 2 * BlockMemory::page_bytes());
  EXPECT_EQ(uneven.nbytes(), kLayers * kBlocks * uneven.block_bytes());
}

TEST_F(ResidencyTest, TooFewBytesThrow) {
  const std::int64_t least = Residency::least_bytes(storage);
  EXPECT_EQ(least, (4 * 3 + 2 * kLayers) * slab_bytes());  // 255 tokens lie in 3 blocks of 128
  try {
    const Residency residency(storage, least - 1, {}, {});
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_EQ(std::string(error.what()),
              concat("BlockPool: resident_bytes: got ", least - 1, ", expected at least ", least,
                     " for blocks of this shape"));
  }
  EXPECT_EQ(make(2 * kLayers).capacity(), 2 * kLayers);
}

TEST_F(ResidencyTest, TheOneUsedLongestAgoGoesFirst) {
  Residency residency = make(5);
  for (const std::int64_t slab : {7, 3, 50, 79, 0}) residency.keep(Slabs{slab});
  residency.keep(Slabs{7});
  residency.keep(Slabs{60});
  EXPECT_EQ(kept(residency), (Slabs{0, 7, 50, 60, 79}));
  residency.keep(Slabs{1, 2});
  EXPECT_EQ(kept(residency), (Slabs{0, 1, 2, 7, 60}));
  residency.age(Slabs{60});
  residency.keep(Slabs{4});
  EXPECT_EQ(kept(residency), (Slabs{0, 1, 2, 4, 7}));
}

TEST_F(ResidencyTest, FreeBlocksGoFirstThenThoseOfCaches) {
  Residency residency = make(4);
  for (const std::int64_t slab : {1, 42, 3, 44}) residency.keep(Slabs{slab});  // blocks 1 to 4
  needs[4] = Need::nobody;
  needs[3] = Need::caches;
  residency.keep(Slabs{10});
  EXPECT_EQ(kept(residency), (Slabs{1, 3, 10, 42}));
  residency.keep(Slabs{11});
  EXPECT_EQ(kept(residency), (Slabs{1, 10, 11, 42}));
  residency.keep(Slabs{12});
  EXPECT_EQ(kept(residency), (Slabs{10, 11, 12, 42}));
}

TEST_F(ResidencyTest, RoomOfFreeBlocksTakesNothingFromOthers) {
  Residency residency = make(4);
  residency.keep(Slabs{0, 1, 2});
  needs[1] = Need::nobody;
  residency.keep(Slabs{5, 6, 7}, Residency::Room::of_free_blocks);
  EXPECT_EQ(kept(residency), (Slabs{0, 2, 5, 6}));
}

TEST_F(ResidencyTest, MoreThanFitsIsKeptAsFarAsItFits) {
  Residency residency = make(4);
  residency.keep(Slabs{70, 71});
  residency.keep(Slabs{0, 1, 2, 3, 4, 5});
  EXPECT_EQ(kept(residency), (Slabs{0, 1, 2, 3}));
  EXPECT_EQ(residency.kept_bytes(), 4 * slab_bytes());
}

TEST_F(ResidencyTest, BlocksAreWholeInAllLayers) {
  Residency residency = make(6);
  const std::int32_t blocks[] = {9, -1, 2, 9};  // ids below 0 are none
  EXPECT_EQ(residency.slabs(blocks), (Slabs{2, 9, 42, 49}));
  EXPECT_EQ(residency.slabs(1, blocks), (Slabs{42, 49}));
  residency.keep(residency.slabs(blocks));
  residency.keep(Slabs{5});
  std::vector<bool> whole(kBlocks, false);
  whole[2] = whole[9] = true;
  EXPECT_EQ(residency.whole_blocks(), whole);
  EXPECT_EQ(residency.part_with(Slabs{5, 6, 9, 49}), 2);
  whole[9] = false;
  EXPECT_EQ(residency.whole_blocks(), whole);
  EXPECT_EQ(kept(residency), (Slabs{2, 42}));
}

// Against plain lists: never more than fits, what was just used is there, and the bytes stay.
TEST_F(ResidencyTest, RandomUse) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    std::mt19937 random(seed);
    const std::int64_t capacity = 10 + random() % 20;
    Residency residency = make(capacity);
    storage.memory().read_only_what_is_asked();
    const auto value = [&](std::int64_t slab) -> std::int32_t& {
      return *reinterpret_cast<std::int32_t*>(storage.memory().data() + slab * slab_bytes());
    };
    std::map<std::int64_t, std::int32_t> written;
    for (int step = 0; step < 300; ++step) {
      std::set<std::int64_t> some;
      for (std::int64_t i = 1 + random() % (capacity / 2); i > 0; --i) {
        some.insert(random() % (kBlocks * kLayers));
      }
      const Slabs slabs(some.begin(), some.end());
      switch (random() % 4) {
        case 0:
          residency.part_with(slabs);
          ASSERT_EQ(residency.missing(slabs), slabs);
          break;
        case 1:
          residency.settle(slabs);
          break;
        default:
          for (Need& need : needs) need = static_cast<Need>(random() % 3);
          residency.keep(slabs);
          ASSERT_TRUE(residency.missing(slabs).empty());
          residency.ask_for(slabs);
          residency.bring_in(slabs);
          for (const std::int64_t slab : slabs) value(slab) = written[slab] = step;
      }
      residency.check();
      ASSERT_LE(residency.kept_bytes(), capacity * slab_bytes());
      for (const auto& [slab, number] : written) ASSERT_EQ(value(slab), number);
    }
  }
}

// What pools in memory have: all methods of the other kind, which find nothing to do.
TEST_F(ResidencyTest, WithoutALimitNothingIsMissing) {
  Residency residency(storage);
  EXPECT_FALSE(residency.is_limited());
  EXPECT_TRUE(make(4).is_limited());
  std::vector<std::int32_t> blocks(kBlocks);
  for (std::int32_t block = 0; block < kBlocks; ++block) blocks[block] = block;
  const Slabs slabs = residency.slabs(blocks);
  EXPECT_EQ(slabs, Slabs{});
  EXPECT_EQ(residency.slabs(1, blocks), Slabs{});
  EXPECT_EQ(residency.missing(slabs), Slabs{});
  residency.keep(slabs);
  residency.keep_and_bring_in(slabs);
  residency.settle(slabs);
  residency.tell_of(blocks);
  residency.check();
  EXPECT_GE(residency.stretch_blocks(), std::numeric_limits<std::int32_t>::max());
  EXPECT_EQ(residency.kept_bytes(), storage.nbytes());
  EXPECT_EQ(residency.whole_blocks(), std::vector<bool>(kBlocks, true));
  EXPECT_EQ(residency.evictions(), 0);
  EXPECT_TRUE(told.empty());
}

TEST_F(ResidencyTest, BrokenBooksAreNoticed) {
  Residency residency = make(4);
  residency.keep(Slabs{0});
  residency.check();
  break_books(residency);
  EXPECT_THROW(residency.check(), InvariantError);
}

}  // namespace
}  // namespace quire
