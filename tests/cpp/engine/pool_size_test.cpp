#include "quire/engine/pool_size.h"

#include <gtest/gtest.h>

#include <limits>

namespace quire {
namespace {

// Blocks of 1 KiB: 16 tokens, keys and values of 8 float32s.
constexpr KvGeometry kGeometry = {.num_blocks = 77,
                                  .block_size = 16,
                                  .num_kv_heads = 1,
                                  .head_dim = 8,
                                  .v_head_dim = 8,
                                  .num_layers = 1,
                                  .dtype = DType::float32};

TEST(PoolSize, IsWhatSequencesNeed) {
  const PoolSize size = choose_pool_size(kGeometry, 100, 300, std::int64_t{1} << 40);
  EXPECT_EQ(size.num_blocks, 7 * 300);
  EXPECT_EQ(size.reason, "2 MiB, room for 300 sequences of 100 tokens");
}

TEST(PoolSize, IsHalfOfWhatIsAvailable) {
  const PoolSize size = choose_pool_size(kGeometry, 1 << 20, 256, 64 << 20);
  EXPECT_EQ(size.num_blocks, 32 << 10);
  EXPECT_EQ(size.reason, "32 MiB, half of the 64 MiB of memory that are available");
}

TEST(PoolSize, IsNeverNoneNorMoreThanIdsReach) {
  EXPECT_EQ(choose_pool_size(kGeometry, 100, 4, 0).num_blocks, 1);
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  EXPECT_LE(choose_pool_size(kGeometry, most / 2, most, most).num_blocks, 1 << 30);
}

}  // namespace
}  // namespace quire
