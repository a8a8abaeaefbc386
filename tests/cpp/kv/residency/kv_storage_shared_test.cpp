// The memory of a pool whose values are the beginnings of its keys: what a tile has, what views
// show, what is copied, and what is refused.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "quire/kv/residency/kv_storage.h"

namespace quire::testing {
namespace {

constexpr DType kShareable[] = {DType::float32, DType::float16,       DType::bfloat16,
                                DType::int8,    DType::float8_e4m3fn, DType::float8_e5m2};

KvGeometry shared(DType dtype, std::int64_t head_dim = 10, std::int64_t v_head_dim = 6) {
  return {.num_blocks = 3,
          .block_size = 5,
          .num_kv_heads = 2,
          .head_dim = head_dim,
          .v_head_dim = v_head_dim,
          .num_layers = 2,
          .dtype = dtype,
          .shared = true};
}

TEST(KvStorageShared, ATileHasKeysAndTheirScalesAlone) {
  for (const DType dtype : kShareable) {
    const KvGeometry g = shared(dtype);
    const KvStorage storage(g);
    const auto item = static_cast<std::int64_t>(size_of(dtype));
    const std::int64_t numbers = (5 * 10 * item + 3) / 4 * 4;
    const std::int64_t tile = (numbers + (is_quantised(dtype) ? 5 * 4 : 0) + 63) / 64 * 64;
    EXPECT_EQ(storage.nbytes(), 2 * 3 * 2 * tile) << name_of(dtype);
  }
  KvGeometry latent = shared(DType::bfloat16, 576, 512);
  latent.num_kv_heads = 1;
  latent.block_size = 16;
  EXPECT_EQ(KvStorage(latent).block_bytes(), 16 * 1152);
}

TEST(KvStorageShared, ValuesAreTheBeginningsOfKeys) {
  for (const DType dtype : kShareable) {
    const KvStorage storage(shared(dtype));
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      const ArrayView k = storage.k_cache(layer), v = storage.v_cache(layer);
      EXPECT_EQ(shape_text(v), "[3, 5, 2, 6]");
      EXPECT_EQ(v.data, k.data);
      EXPECT_EQ(v.strides, k.strides);
      EXPECT_TRUE(v.writable);
      std::vector<std::string_view> names;
      for (const auto& [name, plane] : storage.planes(layer)) names.push_back(name);
      if (!is_quantised(dtype)) {
        EXPECT_EQ(names, std::vector<std::string_view>{"k"});
        EXPECT_THROW(storage.v_scale(layer), TypeError);
        continue;
      }
      EXPECT_EQ(names, (std::vector<std::string_view>{"k", "k_scale"}));
      EXPECT_EQ(storage.v_scale(layer).data, storage.k_scale(layer).data);
      EXPECT_EQ(storage.v_scale(layer).strides, storage.k_scale(layer).strides);
    }
  }
}

// Whole keys, their last numbers too.
TEST(KvStorageShared, RowsAreCopiedWhole) {
  for (const DType dtype : kShareable) {
    const KvStorage storage(shared(dtype));
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      for (const auto& [name, plane] : storage.planes(layer)) {
        for (std::int64_t row = 0; row < 5; ++row) {
          for (std::int64_t head = 0; head < 2; ++head) {
            std::memset(plane.at(2, row, head), static_cast<int>(1 + row * 2 + head),
                        static_cast<std::size_t>(plane.shape[3] * plane.strides[3]));
          }
        }
      }
    }
    storage.copy_rows({2, 1}, {0, 2}, 2);
    storage.copy_block(2, 1);
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      for (const auto& [name, plane] : storage.planes(layer)) {
        const auto bytes = static_cast<std::size_t>(plane.shape[3] * plane.strides[3]);
        const std::vector<std::byte> none(bytes);
        for (std::int64_t row = 0; row < 5; ++row) {
          for (std::int64_t head = 0; head < 2; ++head) {
            EXPECT_EQ(std::memcmp(plane.at(1, row, head), plane.at(2, row, head), bytes), 0);
            const bool is_copied = row == 2 || row == 3;
            const std::byte* const expected = is_copied ? plane.at(2, row - 1, head) : none.data();
            EXPECT_EQ(std::memcmp(plane.at(0, row, head), expected, bytes), 0) << name;
          }
        }
      }
    }
  }
}

TEST(KvStorageShared, Refusals) {
  const auto refusal = [](const KvGeometry& geometry) {
    try {
      const KvStorage storage(geometry);
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_EQ(refusal(shared(DType::bfloat16, 6, 7)),
            "BlockPool: v_head_dim: got 7, expected 1 to 6, as a shared value is the beginning of "
            "its key");
  EXPECT_EQ(refusal(shared(DType::int4)),
            "BlockPool: shared: got true with dtype int4, expected false: its keys have a grid for "
            "each channel of a block, its values one for each token");
  EXPECT_EQ(KvStorage(shared(DType::float32, 6, 6)).v_cache(0).shape[3], 6);
}

}  // namespace
}  // namespace quire::testing
