// Files of prefix caches of pools with open blocks: sealed blocks come back with their bits, and
// what no such cache holds is refused.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "io/file_support.h"
#include "kv/table/open_bits.h"
#include "kv/table/open_rows.h"
#include "kv/table/token_rows.h"
#include "quire/io/cache_file.h"
#include "quire/io/kv_rows.h"

namespace quire::testing {
namespace {

using Ids = std::vector<std::int64_t>;

Ids ids_from(std::int64_t first, std::int64_t count) {
  Ids ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

// A sequence whose tokens are its ids.
void serve(PrefixCache& cache, const Ids& ids, const std::string& space = "") {
  const auto table = cache.match(ids, space);
  append_open(*table, Tokens(ids.begin() + table->num_tokens(), ids.end()));
  cache.insert(ids, *table, space);
}

class CacheFileOpen : public ::testing::TestWithParam<OpenKind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, CacheFileOpen, ::testing::ValuesIn(kOpenKinds), NameOfKind());

TEST_P(CacheFileOpen, ComesBackWithItsBits) {
  const TemporaryDirectory directory;
  const auto pool = new_open_pool(GetParam(), 32);
  PrefixCache cache(pool);
  serve(cache, ids_from(0, 30));
  serve(cache, ids_from(0, 14), "b");
  serve(cache, ids_from(100, 9));
  save_cache(cache, directory / "");
  const auto other_pool = new_open_pool(GetParam(), 16);
  poison(*other_pool);
  PrefixCache other(other_pool);
  EXPECT_EQ(load_cache(other, directory / ""), 7 + 3 + 2);
  EXPECT_EQ(other_pool->stats().open_blocks, 0);
  other_pool->check();
  for (const auto& [ids, space] : {std::pair{ids_from(0, 29), ""}, std::pair{ids_from(0, 11), "b"},
                                   std::pair{ids_from(100, 9), ""}}) {
    const auto expected = cache.match(ids, space), found = other.match(ids, space);
    EXPECT_GT(found->num_tokens(), 7);
    EXPECT_EQ(read_bits(*found), read_bits(*expected));
    for (BlockTable* table : {expected.get(), found.get()}) append_open(*table, tokens_from(50, 9));
    EXPECT_EQ(read_bits(*found), read_bits(*expected));
  }
  EXPECT_EQ(load_cache(other, directory / ""), 0);
  save_cache(other, directory / "again");
  other_pool->check();
}

TEST_P(CacheFileOpen, EveryDamageIsRefusedAndThePoolAsItWas) {
  const TemporaryDirectory directory;
  KvGeometry geometry = geometry_of(GetParam(), 8, 2);
  geometry.num_layers = 1;
  PrefixCache cache(std::make_shared<BlockPool>(geometry));
  serve(cache, {1, 2, 3, 4, 5});
  serve(cache, {1, 2, 7, 8}, "b");
  save_cache(cache, directory / "");
  const auto pool = std::make_shared<BlockPool>(geometry);
  PrefixCache other(pool);
  const std::string file = contents(directory / std::string(kCacheFileName));
  expect_every_damage_refused(file, [&](const FileBytes& bytes) {
    try {
      EXPECT_EQ(load_cache(other, bytes), 4);
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

// [5 6 7 8] below [1 2 3 4], of int4, with checksums that are right.
struct Forgery {
  std::map<std::string, Ids> integers = {{"node_parents", {1, -1}}, {"node_blocks", {0, 1}},
                                         {"node_sizes", {4, 4}},    {"token_ids", ids_from(1, 8)},
                                         {"block_rows", {4, 4}},    {"namespace_ends", {0}}};
  std::int64_t rows = 8, blocks = 2;
  std::uint16_t first_half = 1;  // of the grids of values
  std::vector<TensorSpec> more;

  std::string save(const std::string& path, const BlockPool& pool) const {
    AtomicFile file("forge", path);
    std::vector<TensorSpec> tensors = row_tensors(pool, RowsOf::tiles, rows, blocks);
    const std::size_t num_row_tensors = tensors.size();
    for (const auto& [name, values] : integers) {
      tensors.push_back({name, "I64", {static_cast<std::int64_t>(values.size())}});
    }
    tensors.push_back({"namespaces", "U8", {0}});
    tensors.insert(tensors.end(), more.begin(), more.end());
    SafetensorsWriter writer(file, kv_metadata("prefix_cache", pool.geometry()), tensors);
    for (std::size_t i = 0; i < num_row_tensors; ++i) {
      std::int64_t count = 1;
      for (const std::int64_t length : tensors[i].shape) count *= length;
      if (tensors[i].dtype == "U8") {
        writer.write(i, std::vector<std::uint8_t>(count, 0x5a));
      } else {
        std::vector<std::uint16_t> halves(count, 1);
        if (tensors[i].name.ends_with("v_scale")) halves[0] = first_half;
        writer.write(i, halves);
      }
    }
    std::size_t next = num_row_tensors;
    for (const auto& [name, values] : integers) writer.write(next++, values);
    writer.finish();
    file.commit();
    return contents(path);
  }
};

std::string load_forged(const std::function<void(Forgery&)>& forge) {
  const TemporaryDirectory directory;
  const auto pool = new_int4_pool(8);
  PrefixCache cache(pool);
  Forgery forgery;
  forge(forgery);
  const std::string file = forgery.save(directory / "f", *pool);
  const std::string message = message_of<ValueError>([&] { load_cache(cache, as_file(file)); });
  EXPECT_EQ(pool->stats().peak_used, message == "nothing thrown" ? 2 : 0) << message;
  pool->check();
  return reason_of(message);
}

TEST(CacheFileForgedInt4, WhatNoCacheHoldsIsRefused) {
  EXPECT_EQ(load_forged([](Forgery&) {}), "nothing thrown");
  EXPECT_EQ(load_forged([](Forgery& f) {
              f.integers["block_rows"] = {1, 4};
              f.rows = 5;
            }),
            "block_rows 1 at index 0, expected 4 to 4");
  EXPECT_EQ(load_forged([](Forgery& f) {
              f.integers["node_sizes"] = {3, 4};
              f.integers["token_ids"].pop_back();
            }),
            "node_sizes 3 at index 0, expected 4 to 4");
  EXPECT_EQ(load_forged([](Forgery& f) { f.blocks = 3; }),
            "tensor \"layers.0.k_scale\" F16 [3, 2, 4, 2], expected F16 [2, 2, 4, 2]");
  EXPECT_EQ(load_forged([](Forgery& f) { f.more = {{"layers.0.k_open", "BF16", {0, 2, 4}}}; }),
            "tensor \"layers.0.k_open\", expected no such tensor");
  EXPECT_EQ(load_forged([](Forgery& f) { f.first_half = 0x7c00; }),
            "tensor \"layers.0.v_scale\" with a step of inf and a middle of 5.9604645e-08 at [0, "
            "0], expected both finite, and the step positive");
}

}  // namespace
}  // namespace quire::testing
