// Files whose checksums are right and whose contents are not: trees with cycles, numbers out of
// range, tensors that do not fit together.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "io/file_support.h"
#include "kv/prefix/prefix_rows.h"
#include "quire/io/cache_file.h"
#include "quire/io/kv_rows.h"

namespace quire::testing {
namespace {

// [5] below [1 2 3 4], in the namespace "".
struct Forgery {
  std::map<std::string, std::vector<std::int64_t>> integers = {
      {"node_parents", {1, -1}},      {"node_blocks", {0, 1}}, {"node_sizes", {1, 4}},
      {"token_ids", {5, 1, 2, 3, 4}}, {"block_rows", {1, 4}},  {"namespace_ends", {0}}};
  std::string namespaces;
  std::int64_t rows = 5;
  std::vector<TensorSpec> more;

  void save(const std::string& path, const BlockPool& pool) const {
    AtomicFile file("forge", path);
    std::vector<TensorSpec> tensors = row_tensors(pool, RowsOf::tiles, rows, 2);
    const std::size_t num_row_tensors = tensors.size();
    for (const auto& [name, values] : integers) {
      tensors.push_back({name, "I64", {static_cast<std::int64_t>(values.size())}});
    }
    tensors.push_back({"namespaces", "U8", {static_cast<std::int64_t>(namespaces.size())}});
    tensors.insert(tensors.end(), more.begin(), more.end());
    SafetensorsWriter writer(file, kv_metadata("prefix_cache", pool.geometry()), tensors);
    for (std::size_t i = 0; i < num_row_tensors; ++i) {
      writer.write(
          i, std::vector<float>(tensors[i].shape[0] * tensors[i].shape[1] * tensors[i].shape[2]));
    }
    std::size_t next = num_row_tensors;
    for (const auto& [name, values] : integers) writer.write(next++, values);
    writer.write(next, std::as_bytes(std::span(namespaces)));
    writer.finish();
    file.commit();
  }
};

class CacheFileForged : public ::testing::Test {
 protected:
  std::string load(const std::function<void(Forgery&)>& forge) {
    Forgery forgery;
    forge(forgery);
    const std::string path = directory_ / std::string(kCacheFileName);
    forgery.save(path, *pool_);
    const std::string message =
        message_of<ValueError>([&] { load_cache(cache_, FileBytes{"load", "file", bytes(path)}); });
    pool_->check();
    if (message != "nothing thrown") {
      EXPECT_EQ(pool_->num_used(), 0);
    }
    cache_.clear();
    return reason_of(message);
  }

  std::span<const std::byte> bytes(const std::string& path) {
    contents_ = contents(path);
    return std::as_bytes(std::span(contents_));
  }

  std::string contents_;
  TemporaryDirectory directory_;
  std::shared_ptr<BlockPool> pool_ = new_pool(8, 4);
  PrefixCache cache_{pool_};
};

TEST_F(CacheFileForged, ARightOneIsLoaded) {
  EXPECT_EQ(load([](Forgery&) {}), "nothing thrown");
}

TEST_F(CacheFileForged, NumbersOutOfRangeAndCyclesAreRefused) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
  const auto parent = [](std::int64_t value, int index, int spaces = 1) {
    return concat("node_parents ", value, " at index ", index,
                  ", expected a later one of 2 nodes, or -1 - i for one of ",
                  counted(spaces, "namespace"));
  };
  const struct {
    std::string column;
    std::vector<std::int64_t> values;
    std::string message;
  } cases[] = {
      {"node_parents", {0, -1}, parent(0, 0)},
      {"node_parents", {1, 0}, parent(0, 1)},
      {"node_parents", {2, -1}, parent(2, 0)},
      {"node_parents", {most, -1}, parent(most, 0)},
      {"node_parents", {1, -2}, parent(-2, 1)},
      {"node_parents", {1, least}, parent(least, 1)},
      {"node_blocks", {0, 2}, "node_blocks 2 at index 1, expected 0 to 1"},
      {"node_blocks", {-1, 1}, "node_blocks -1 at index 0, expected 0 to 1"},
      {"node_blocks", {1, 0}, "node_sizes 4 at index 1, expected 1 to 1"},
      {"node_sizes", {0, 4}, "node_sizes 0 at index 0, expected 1 to 1"},
      {"node_sizes", {1, 3}, "node_sizes 3 at index 1, expected 4 to 4"},
      {"node_sizes", {1, 5}, "node_sizes 5 at index 1, expected 4 to 4"},
      {"node_sizes",
       {1},
       "2 node_parents, 2 node_blocks and 1 node_sizes, expected as many of each"},
      {"node_priorities", {1, 101}, "node_priorities 101 at index 1, expected -100 to 100"},
      {"node_priorities", {-101, 0}, "node_priorities -101 at index 0, expected -100 to 100"},
      {"node_priorities", {1}, "2 node_parents and 1 node_priorities, expected as many of each"},
      {"token_ids", {5, 1, 2, 3}, "4 token_ids, expected the 5 of all nodes"},
      {"block_rows", {1, 5}, "block_rows 5 at index 1, expected 1 to 4"},
      {"block_rows", {0, 4}, "block_rows 0 at index 0, expected 1 to 4"},
      {"block_rows", {2, 4}, "tensor \"layers.0.k\" F32 [5, 2, 3], expected F32 [6, 2, 3]"},
      {"block_rows", {most, 4}, concat("block_rows ", most, " at index 0, expected 1 to 4")},
      {"namespace_ends", {1}, "namespace_ends 1 at index 0, expected 0 to 0"},
      {"namespace_ends", {-1}, "namespace_ends -1 at index 0, expected 0 to 0"},
      {"namespace_ends", {}, parent(-1, 1, 0)},
  };
  for (const auto& [column, values, message] : cases) {
    EXPECT_EQ(load([&](Forgery& forgery) { forgery.integers[column] = values; }), message);
  }
}

TEST_F(CacheFileForged, TensorsThatDoNotFitAreRefused) {
  EXPECT_EQ(load([](Forgery& forgery) { forgery.rows = 4; }),
            "tensor \"layers.0.k\" F32 [4, 2, 3], expected F32 [5, 2, 3]");
  EXPECT_EQ(load([](Forgery& forgery) { forgery.integers.erase("token_ids"); }),
            "no tensor \"token_ids\", expected one");
  EXPECT_EQ(load([](Forgery& forgery) { forgery.more.push_back({"positions", "I64", {0}}); }),
            "tensor \"positions\", expected no such tensor");
}

// Of siblings that say the same the first that is restored stays: nothing worse comes of it.
TEST_F(CacheFileForged, TheSameIdsTwiceAreOneNode) {
  EXPECT_EQ(load([](Forgery& forgery) {
              forgery.integers["node_parents"] = {-1, -1};
              forgery.integers["node_sizes"] = {4, 4};
              forgery.integers["node_blocks"] = {1, 1};
              forgery.integers["token_ids"] = {1, 2, 3, 4, 1, 2, 3, 4};
            }),
            "nothing thrown");
  EXPECT_EQ(pool_->num_used(), 0);
}

}  // namespace
}  // namespace quire::testing
