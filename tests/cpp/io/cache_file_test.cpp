// Prefix caches in files: they come back as they were, and what is damaged or does not fit is
// refused. What is forged, with checksums that are right, is for the fuzzer (tests/fuzz).
#include "quire/io/cache_file.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "io/file_support.h"
#include "kv/prefix/prefix_rows.h"

namespace quire::testing {
namespace {

std::string file_in(const TemporaryDirectory& directory) {
  return directory / std::string(kCacheFileName);
}

TEST(CacheFile, ComesBackInAnyPoolOfItsGeometry) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(32, 4);
  PrefixCache cache(pool);
  const Ids prompt = count_from(100, 9);
  serve(cache, prompt + Ids{1, 2, 3});
  const auto in_use = serve(cache, prompt + Ids{4});
  serve(cache, prompt + Ids{1}, "other");
  serve(cache, {std::int64_t{1} << 60, 5}, "\xc3\xa4");
  save_cache(cache, directory / "a/b");
  EXPECT_EQ(pool->stats().used - pool->stats().cached, 3);  // those of the table in use

  const auto other_pool = new_pool(16, 4);
  PrefixCache other(other_pool);
  EXPECT_EQ(load_cache(other, directory / "a/b"), cache.size());
  EXPECT_EQ(other.size(), cache.size());
  EXPECT_EQ(other_pool->stats().cached, other.size());
  const auto expect_found = [&](const Ids& ids, const std::string& space) {
    const auto table = other.match(ids + Ids{0}, space);
    EXPECT_TRUE(holds_ids(*table, ids, space));
  };
  expect_found(prompt + Ids{1, 2, 3}, "");
  expect_found(prompt + Ids{4}, "");
  expect_found(prompt + Ids{1}, "other");
  expect_found({std::int64_t{1} << 60, 5}, "\xc3\xa4");
  other_pool->check();
}

// A block in two namespaces, in one of them with fewer rows: all that either needs are saved,
// whichever was used last.
TEST(CacheFile, ASharedBlockHasTheRowsOfEach) {
  for (const bool shorter_first : {false, true}) {
    const TemporaryDirectory directory;
    const auto pool = new_pool(8, 4);
    PrefixCache cache(pool), other(new_pool(8, 4));
    const Ids ids = count_from(0, 8);
    {
      BlockTable table(pool);
      append_rest(table, ids);
      cache.insert(Ids(ids.begin(), ids.begin() + (shorter_first ? 5 : 8)), table, "a");
      cache.insert(Ids(ids.begin(), ids.begin() + (shorter_first ? 8 : 5)), table, "b");
    }
    save_cache(cache, directory / "");
    load_cache(other, directory / "");
    for (const std::string space : {"a", "b"}) {
      const std::size_t size = (space == "a") == shorter_first ? 5 : 8;
      const auto table = other.match(ids + Ids{0}, space);
      EXPECT_TRUE(holds_ids(*table, Ids(ids.begin(), ids.begin() + size)));
    }
  }
}

TEST(CacheFile, SavingAndLoadingKeepWhoGoesFirst) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(32, 4);
  PrefixCache cache(pool), other(new_pool(32, 4));
  for (std::int64_t i = 0; i < 4; ++i) serve(cache, count_from(100 * i, 8));
  cache.match(count_from(0, 9));
  save_cache(cache, directory / "");
  EXPECT_EQ(load_cache(other, directory / ""), 8);
  for (PrefixCache* each : {&cache, &other}) {
    each->evict(5);  // 1 and 2 whole, the end of 3
    EXPECT_EQ(each->match(count_from(100, 9))->num_tokens(), 0);
    EXPECT_EQ(each->match(count_from(200, 9))->num_tokens(), 0);
    EXPECT_EQ(each->match(count_from(300, 9))->num_tokens(), 4);
    EXPECT_EQ(each->match(count_from(0, 9))->num_tokens(), 8);
  }
}

TEST(CacheFile, AnEmptyCacheComesBackEmpty) {
  const TemporaryDirectory directory;
  PrefixCache cache(new_pool(8, 4)), other(new_pool(8, 4));
  save_cache(cache, directory / "");
  serve(other, count_from(0, 8));
  EXPECT_EQ(load_cache(other, directory / ""), 0);
  EXPECT_EQ(other.size(), 2);
}

TEST(CacheFile, WithMaxBlocksThoseUsedLastAreLoaded) {
  const TemporaryDirectory directory;
  PrefixCache cache(new_pool(32, 4));
  for (std::int64_t i = 0; i < 4; ++i) serve(cache, count_from(100 * i, 8));
  cache.match(count_from(0, 9));
  save_cache(cache, directory / "");
  for (std::int64_t most = 0; most <= 9; ++most) {
    const auto pool = new_pool(8, 4);
    PrefixCache small(pool, most);
    EXPECT_EQ(load_cache(small, directory / ""), std::min<std::int64_t>(most, 8));
    EXPECT_EQ(pool->stats().peak_used, std::min<std::int64_t>(most, 8));
    const auto found = [&](std::int64_t i) {
      const auto table = small.match(count_from(100 * i, 9));
      EXPECT_TRUE(holds_ids(*table, count_from(100 * i, table->num_tokens())));
      return table->num_tokens() / 4;
    };
    std::int64_t left = most;
    for (const std::int64_t i : {0, 3, 2, 1}) {
      EXPECT_EQ(found(i), std::clamp<std::int64_t>(left, 0, 2)) << i << " of " << most;
      left -= 2;
    }
    pool->check();
  }
}

TEST(CacheFile, EveryDamageIsRefusedAndThePoolAsItWas) {
  const TemporaryDirectory directory;
  PrefixCache cache(new_pool(32, 4));
  serve(cache, {1, 2, 3, 4, 5});
  serve(cache, {1, 2, 3, 4, 6}, "b");
  save_cache(cache, directory / "");
  const auto pool = new_pool(8, 4);
  PrefixCache other(pool);
  expect_every_damage_refused(contents(file_in(directory)), [&](const FileBytes& file) {
    try {
      load_cache(other, file);
      other.clear();
    } catch (...) {
      EXPECT_EQ(pool->num_free(), 8);
      EXPECT_EQ(other.size(), 0);
      throw;
    }
  });
  EXPECT_EQ(pool->stats().peak_used, 4);
  pool->check();
}

TEST(CacheFile, WithoutRoomThePoolIsAsItWas) {
  const TemporaryDirectory directory;
  PrefixCache cache(new_pool(32, 4));
  serve(cache, count_from(0, 20));
  save_cache(cache, directory / "");
  const auto pool = new_pool(6, 4);
  PrefixCache other(pool);
  serve(other, count_from(50, 8));
  const auto taken = pool->allocate(2);
  EXPECT_EQ(message_of<OutOfBlocks>([&] { load_cache(other, directory / ""); }),
            concat("PrefixCache.load: path: got ", directory / "", "/", kCacheFileName,
                   ": 5 blocks, ", "expected at most the 2 free and 2 cached"));
  EXPECT_EQ(other.size(), 2);
  EXPECT_EQ(pool->num_free(), 2);
  pool->release(taken);
  EXPECT_EQ(load_cache(other, directory / ""), 5);
  EXPECT_EQ(other.size(), 6);
  pool->check();
}

// What a file shares with the cache needs no block, and does not make room for the rest of the
// file.
TEST(CacheFile, WhatIsCachedAlreadyTakesNoRoom) {
  const TemporaryDirectory directory;
  PrefixCache cache(new_pool(32, 4));
  const Ids prompt = count_from(0, 12);
  serve(cache, prompt + Ids{1, 2, 5, 6});
  serve(cache, prompt + Ids{3, 4, 5, 6}, "b");
  save_cache(cache, directory / "");  // 8 blocks

  const auto pool = new_pool(9, 4);
  PrefixCache other(pool);
  serve(other, prompt);                     // 3 of those
  serve(other, count_from(100, 4), "old");  // to be evicted
  serve(other, prompt, "c");                // as well, and used last
  const auto taken = pool->allocate(2);
  EXPECT_EQ(pool->num_free(), 0);
  const auto refused = message_of<OutOfBlocks>([&] { load_cache(other, directory / ""); });
  EXPECT_NE(refused.find("5 blocks, expected at most the 0 free and 4 cached"), refused.npos);
  EXPECT_EQ(other.size(), 7);
  EXPECT_EQ(other.stats().evictions, 0);
  pool->release(std::vector{taken[0]});
  EXPECT_EQ(load_cache(other, directory / ""), 5);
  EXPECT_EQ(other.size(), 8);
  EXPECT_EQ(other.stats().evictions, 4);  // all but those of the file
  EXPECT_TRUE(holds_ids(*other.match(prompt + Ids{1, 2, 5, 6, 0}), prompt + Ids{1, 2, 5, 6}));
  EXPECT_TRUE(
      holds_ids(*other.match(prompt + Ids{3, 4, 5, 6, 0}, "b"), prompt + Ids{3, 4, 5, 6}, "b"));
  pool->check();
  // once more: nothing is added, nobody has to go
  pool->release(std::vector{taken[1]});
  const auto rest = pool->allocate(1);
  EXPECT_EQ(load_cache(other, directory / ""), 0);
  EXPECT_EQ(other.stats().evictions, 4);
  EXPECT_EQ(pool->stats().cached, 8);
  pool->check();
}

// The order of eviction is the file's, whatever was there before.
TEST(CacheFile, LoadingIntoAPartOfItKeepsWhoGoesFirst) {
  const TemporaryDirectory directory;
  PrefixCache cache(new_pool(32, 4));
  for (std::int64_t i = 0; i < 4; ++i) serve(cache, count_from(100 * i, 4));
  save_cache(cache, directory / "");
  PrefixCache other(new_pool(32, 4));
  for (const std::int64_t i : {2, 0}) serve(other, count_from(100 * i, 4));
  EXPECT_EQ(load_cache(other, directory / ""), 2);
  for (std::int64_t gone = 0; gone < 4; ++gone) {
    other.evict(1);
    for (std::int64_t i = 0; i < 4; ++i) {
      const PrefixSnapshot left = other.snapshot();
      for (const BlockRows& block : left.blocks) other.pool()->release(std::vector{block.id});
      EXPECT_EQ(std::count(left.ids.begin(), left.ids.end(), 100 * i), i > gone) << i << gone;
    }
  }
}

TEST(CacheFile, AFailedSaveHoldsNothing) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(8, 4);
  PrefixCache cache(pool);
  serve(cache, count_from(0, 8));
  std::ofstream(directory / "file") << "";
  EXPECT_THROW(save_cache(cache, directory / "file"), FileError);
  std::filesystem::create_directory(file_in(directory));
  EXPECT_THROW(save_cache(cache, directory / ""), FileError);
  EXPECT_EQ(pool->stats().cached, 2);
  EXPECT_THROW(load_cache(cache, directory / "none"), FileError);
}

// While threads match, append, insert and evict, each file holds what was computed for its ids.
TEST(CacheFileConcurrency, SavedAndLoadedWhileOthersUseIt) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(160, 4);
  PrefixCache cache(pool, 60);
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int worker = 0; worker < 4; ++worker) {
    threads.emplace_back([&, worker] {
      std::mt19937 random(worker);
      while (!done) {
        Ids ids;
        for (std::size_t length = 1 + random() % 24; ids.size() < length;) {
          ids.push_back(random() % 8 == 0 ? random() % 3 : 0);
        }
        try {
          const auto table = cache.match(ids, worker % 2 == 0 ? "" : "b");
          append_rest(*table, ids, worker % 2 == 0 ? "" : "b");
          cache.insert(ids, *table, worker % 2 == 0 ? "" : "b");
        } catch (const OutOfBlocks&) {
        }
        if (random() % 100 == 0) cache.evict(8);
        if (random() % 500 == 0) cache.clear();
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    save_cache(cache, directory / "");
    const auto other_pool = new_pool(64, 4);
    PrefixCache other(other_pool);
    load_cache(other, directory / "");
    other_pool->check();
    try {
      load_cache(cache, directory / "");
    } catch (const OutOfBlocks&) {
    }
    const PrefixSnapshot snapshot = other.snapshot();
    for (const BlockRows& block : snapshot.blocks) other_pool->release(std::vector{block.id});
    auto end = static_cast<std::ptrdiff_t>(snapshot.ids.size());
    std::vector<std::pair<Ids, std::string>> paths(snapshot.nodes.size());
    for (std::size_t n = snapshot.nodes.size(); n-- > 0;) {
      const std::int64_t parent = snapshot.nodes[n].parent, size = snapshot.nodes[n].size;
      end -= size;
      paths[n] = parent < 0 ? std::pair{Ids{}, snapshot.namespaces[-1 - parent]} : paths[parent];
      const auto begin = snapshot.ids.begin() + end;
      paths[n].first.insert(paths[n].first.end(), begin, begin + size);
      const auto table = other.match(paths[n].first + Ids{9}, paths[n].second);
      ASSERT_TRUE(holds_ids(*table, paths[n].first, paths[n].second));
    }
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  pool->check();
}

// The file has them only where there are some, so that other ones are what they always were.
TEST(CacheFile, PrioritiesComeBack) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(16, 4);
  PrefixCache cache(pool);
  const auto leave = [](PrefixCache& to, const Ids& ids, std::int64_t priority) {
    const auto table = to.match(ids);
    append_rest(*table, ids);
    to.insert(ids, *table, "", priority);
  };
  const std::string path = directory / std::string(kCacheFileName);
  leave(cache, count_from(0, 8), 0);
  save_cache(cache, directory / "");
  EXPECT_EQ(contents(path).find("node_priorities"), std::string::npos);
  leave(cache, count_from(50, 8), 9);
  leave(cache, count_from(100, 4), -9);
  save_cache(cache, directory / "");
  EXPECT_NE(contents(path).find("node_priorities"), std::string::npos);

  PrefixCache other(new_pool(16, 4));
  EXPECT_EQ(load_cache(other, directory / ""), 5);
  leave(other, count_from(150, 8), 1);
  EXPECT_EQ(other.evict(1), 1);
  EXPECT_EQ(other.peek(count_from(100, 5)), 0);
  EXPECT_EQ(other.evict(4), 4);
  EXPECT_EQ(other.peek(count_from(150, 9)), 0);
  EXPECT_EQ(other.peek(count_from(50, 9)), 8);
  // where there is room for some alone, these
  PrefixCache small(new_pool(16, 4), 2);
  EXPECT_EQ(load_cache(small, directory / ""), 2);
  EXPECT_EQ(small.peek(count_from(50, 9)), 8);
}

}  // namespace
}  // namespace quire::testing
