// A pool of 16 blocks of 4 tokens with a prefix cache, whose books are right at the end of each
// test.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>

#include "kv/prefix/prefix_rows.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire::testing {

inline constexpr std::int64_t kBlock = 4;

class PrefixCacheTest : public ::testing::Test {
 protected:
  explicit PrefixCacheTest(std::int64_t num_blocks = 16) : pool(new_pool(num_blocks, kBlock)) {}
  ~PrefixCacheTest() override { pool->check(); }

  // How many tokens are found, and that their rows are theirs.
  std::int64_t found(const Ids& ids, const std::string& space = "") {
    const auto table = cache.match(ids, space);
    const std::int64_t tokens = table->num_tokens();
    EXPECT_TRUE(holds_ids(*table, {ids.begin(), ids.begin() + tokens}, space));
    return tokens;
  }

  std::shared_ptr<BlockPool> pool;
  PrefixCache cache{pool};
};

}  // namespace quire::testing
