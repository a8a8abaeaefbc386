// What keep moves: all that a slot has, whatever the planes of the pool are.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "quire/kv/pool/block_pool.h"
#include "quire/kv/table/block_table.h"

namespace quire::testing {
namespace {

// All bytes of a slot, plane after plane.
template <class Visit>
void for_each_byte(const KvStorage& storage, std::int64_t slot, Visit visit) {
  for (std::int64_t layer = 0; layer < storage.geometry().num_layers; ++layer) {
    for (const auto& [name, plane] : storage.planes(layer)) {
      for (std::int64_t head = 0; head < plane.shape[2]; ++head) {
        std::byte* const row = plane.at(slot / plane.shape[1], slot % plane.shape[1], head);
        for (std::int64_t i = 0; i < plane.shape[3] * plane.strides[3]; ++i) visit(row[i]);
      }
    }
  }
}

std::vector<std::byte> bytes_of(const KvStorage& storage, std::int64_t slot) {
  std::vector<std::byte> bytes;
  for_each_byte(storage, slot, [&](std::byte byte) { bytes.push_back(byte); });
  return bytes;
}

class DropTokens : public ::testing::TestWithParam<DType> {
 protected:
  const std::shared_ptr<BlockPool> pool_ =
      std::make_shared<BlockPool>(KvGeometry{.num_blocks = 16,
                                             .block_size = 4,
                                             .num_kv_heads = 2,
                                             .head_dim = 5,
                                             .v_head_dim = 3,
                                             .num_layers = 3,
                                             .dtype = GetParam()});
  const KvStorage& storage_ = pool_->storage();

  // Appends tokens with bytes that no two slots share; returns the bytes of each.
  std::vector<std::vector<std::byte>> append(BlockTable& table, std::int64_t tokens) {
    std::vector<std::vector<std::byte>> all;
    for (const std::int64_t slot : table.extend(tokens)) {
      for_each_byte(storage_, slot, [this](std::byte& byte) {
        seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
        byte = static_cast<std::byte>(seed_ >> 56);
      });
      all.push_back(bytes_of(storage_, slot));
    }
    return all;
  }

  std::vector<std::byte> token(const BlockTable& table, std::int64_t index) const {
    return bytes_of(storage_, std::int64_t{table.blocks()[index / 4]} * 4 + index % 4);
  }

 private:
  std::uint64_t seed_ = 1;
};

TEST_P(DropTokens, KeepMovesEveryPlane) {
  std::size_t row_bytes = 0;
  for (const auto& [name, plane] : storage_.planes(0)) {
    row_bytes += static_cast<std::size_t>(plane.shape[2] * plane.shape[3] * plane.strides[3]);
  }
  for (const bool is_shared : {false, true}) {
    BlockTable table(pool_);
    const auto before = append(table, 18);
    ASSERT_EQ(before[0].size(), 3 * row_bytes);
    const auto other = is_shared ? table.fork() : nullptr;
    const std::vector<std::int64_t> kept = {0, 1, 3, 4, 9, 10, 16, 17};
    table.keep(kept);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      EXPECT_EQ(token(table, static_cast<std::int64_t>(i)), before[kept[i]]) << "token " << i;
    }
    for (std::int64_t i = 0; is_shared && i < 18; ++i) EXPECT_EQ(token(*other, i), before[i]);
    pool_->check();
  }
}

INSTANTIATE_TEST_SUITE_P(Pools, DropTokens, ::testing::ValuesIn(kDTypes),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace quire::testing
