// The memory of a pool of int4: where codes and grids lie, and which sizes are refused.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>

#include "kv/table/open_rows.h"
#include "quire/format/int4_grid.h"
#include "quire/kv/residency/kv_storage.h"

namespace quire::testing {
namespace {

TEST(KvStorageInt4, NaturalShapes) {
  const KvStorage storage(sized(5, 10, 6));
  EXPECT_EQ(shape_text(storage.k_cache(1)), "[3, 5, 2, 5]");
  EXPECT_EQ(shape_text(storage.v_cache(1)), "[3, 5, 2, 3]");
  EXPECT_EQ(shape_text(storage.k_scale(1)), "[3, 2, 10, 2]");
  EXPECT_EQ(shape_text(storage.v_scale(1)), "[3, 5, 2, 2]");
  EXPECT_EQ(storage.k_cache(0).dtype, DType::int4);
  EXPECT_EQ(storage.k_scale(0).dtype, DType::float16);
  EXPECT_EQ(storage.v_scale(0).dtype, DType::float16);
  EXPECT_THROW(storage.k_scale(2), IndexError);
  EXPECT_THROW(storage.v_scale(-1), IndexError);
}

// Bytes of one block and head stand together in an aligned tile, and no byte is used twice.
TEST(KvStorageInt4, EveryByteHasItsOwnPlace) {
  for (const auto& [block_size, head_dim, v_head_dim] :
       {std::array<std::int64_t, 3>{16, 128, 128}, {5, 10, 6}, {1, 2, 2}, {3, 2, 130}, {7, 6, 2}}) {
    const KvStorage storage(sized(block_size, head_dim, v_head_dim));
    std::map<std::byte*, std::int64_t> tiles;  // of each byte
    std::size_t count = 0;
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      const ArrayView k = storage.k_cache(layer), v = storage.v_cache(layer);
      const ArrayView k_grids = storage.k_scale(layer), v_grids = storage.v_scale(layer);
      for (std::int64_t block = 0; block < 3; ++block) {
        for (std::int64_t head = 0; head < 2; ++head) {
          const auto add = [&](std::byte* place, std::int64_t bytes) {
            for (; bytes > 0; --bytes, ++count) {
              tiles[place++] = (layer * 3 + block) * 2 + head;
            }
          };
          for (std::int64_t row = 0; row < block_size; ++row) {
            add(k.at(block, row, head), head_dim / 2);
            add(v.at(block, row, head), v_head_dim / 2);
            add(v_grids.at(block, row, head), sizeof(Int4Grid));
            EXPECT_EQ(reinterpret_cast<std::uintptr_t>(v_grids.at(block, row, head)) % 4, 0u);
          }
          for (std::int64_t d = 0; d < head_dim; ++d) {
            add(k_grids.at(block, head, d), sizeof(Int4Grid));
            EXPECT_EQ(k_grids.at(block, head, d), k_grids.at(block, head) + 4 * d);
          }
          EXPECT_EQ(reinterpret_cast<std::uintptr_t>(k.at(block, 0, head)) % 64, 0u);
        }
      }
    }
    EXPECT_EQ(tiles.size(), count);
    std::int64_t before = 0;
    for (const auto& [place, tile] : tiles) {  // in the order of memory
      ASSERT_GE(tile, before);
      before = tile;
    }
    EXPECT_LE(static_cast<std::int64_t>(count), storage.nbytes());
    std::int64_t bytes = block_size * (head_dim + v_head_dim) / 2 + 3;
    bytes = bytes / 4 * 4 + 4 * (head_dim + block_size) + 63;
    EXPECT_EQ(storage.nbytes(), bytes / 64 * 64 * 12);
  }
}

TEST(KvStorageInt4, CopiesWholeBlocks) {
  const KvStorage storage(sized(5, 10, 6));
  const auto fill = [&](const ArrayView& view, int byte) {
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      std::memset(view.data, byte, static_cast<std::size_t>(view.strides[0]));
    }
  };
  for (std::int64_t layer = 0; layer < 2; ++layer) fill(storage.k_cache(layer), 0x5a);
  storage.copy_block(0, 2);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(*storage.v_scale(layer).at(2, 4, 1), std::byte{0x5a});
    EXPECT_EQ(*storage.k_scale(layer).at(2, 1, 9), std::byte{0x5a});
    EXPECT_EQ(*storage.v_scale(layer).at(1, 4, 1), std::byte{0});
  }
}

template <class Exception>
std::string message_of(const KvGeometry& geometry, const std::string& file = "") {
  try {
    const KvStorage storage(geometry, file);
  } catch (const Exception& error) {
    return error.what();
  }
  return "";
}

TEST(KvStorageInt4, RefusedSizes) {
  EXPECT_EQ(
      message_of<ValueError>(sized(4, 5, 6)),
      "BlockPool: head_dim: got 5, expected an even number for int4, which has two numbers in "
      "a byte");
  EXPECT_EQ(message_of<ValueError>(sized(4, 6, 1)),
            "BlockPool: v_head_dim: got 1, expected an even number for int4, which has two numbers "
            "in a byte");
  KvGeometry many = sized(4, 6, 6);
  many.num_blocks = std::int64_t{1} << 30;
  EXPECT_EQ(message_of<ValueError>(many),
            "BlockPool: num_blocks: got 1073741824, expected 1 to 1073741823");
  for (std::int64_t KvGeometry::* size : {&KvGeometry::head_dim, &KvGeometry::v_head_dim,
                                          &KvGeometry::num_kv_heads, &KvGeometry::num_layers}) {
    KvGeometry large = sized(4, 6, 6);
    large.*size = std::numeric_limits<std::int64_t>::max() - 1;
    EXPECT_NE(message_of<ValueError>(large).find("more bytes than an address can count"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace quire::testing
