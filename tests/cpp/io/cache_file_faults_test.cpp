// Prefix caches in files: what is left where a call of the system fails.
#include <gtest/gtest.h>

#include "io/save_faults.h"
#include "kv/prefix/prefix_rows.h"
#include "quire/io/cache_file.h"

namespace quire::testing {
namespace {

TEST(CacheFileFaults, OfSave) {
  const auto pool = new_pool(16, 4);
  PrefixCache old_cache(new_pool(16, 4)), cache(pool);
  serve(old_cache, count_from(0, 5));
  serve(cache, count_from(100, 9));
  serve(cache, count_from(100, 7), "other");
  const auto cached = pool->stats().cached;
  const auto nothing = [](const TemporaryDirectory&) {};
  const auto expect_all_or_nothing_in = [&](const InDirectory& prepare, const char* folder) {
    expect_all_or_nothing(prepare, [&](const TemporaryDirectory& directory) {
      save_cache(cache, directory / folder);
    });
  };
  expect_all_or_nothing_in(nothing, "");
  expect_all_or_nothing_in(nothing, "new");
  expect_all_or_nothing_in(nothing, "new/folder/");
  expect_all_or_nothing_in(
      [&](const TemporaryDirectory& directory) { save_cache(old_cache, directory / "new"); },
      "new");
  EXPECT_EQ(pool->stats().cached, cached);  // none is held any more
  pool->check();
}

TEST(CacheFileFaults, OfLoad) {
  const TemporaryDirectory directory;
  PrefixCache saved(new_pool(16, 4));
  serve(saved, count_from(0, 9));
  save_cache(saved, directory / "");
  const auto before = everything_in(directory);
  const auto pool = new_pool(16, 4);
  std::unique_ptr<PrefixCache> cache;
  const auto load = [&] {
    cache = std::make_unique<PrefixCache>(pool);
    load_cache(*cache, directory / "");
  };
  expect_faults_reported(load, [&] {
    EXPECT_EQ(cache->size(), 0);
    cache.reset();
    EXPECT_EQ(pool->num_free(), 16);
    EXPECT_EQ(everything_in(directory), before);
  });
  pool->check();
}

// Once this wrote to the root of the file system.
TEST(CacheFileFaults, PathsThatNameNothing) {
  PrefixCache cache(new_pool(16, 4));
  EXPECT_EQ(message_of<ValueError>([&] { save_cache(cache, ""); }),
            "PrefixCache.save: dir: got an empty one, expected a path");
  EXPECT_EQ(message_of<ValueError>([&] { load_cache(cache, std::string()); }),
            "PrefixCache.load: dir: got an empty one, expected a path");
}

}  // namespace
}  // namespace quire::testing
