// The memory of open blocks: where rows lie, and what they are once they are sealed or opened
// again.
#include "quire/kv/pool/open_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "kv/table/open_rows.h"
#include "kv/table/token_rows.h"

namespace quire::testing {
namespace {

void put(const OpenBlocks& open, std::int64_t slot, std::int64_t row, std::uint32_t token) {
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (const bool is_value : {false, true}) {
      const ArrayView view = is_value ? open.v_open(layer) : open.k_open(layer);
      for (std::int64_t head = 0; head < 2; ++head) {
        for (std::int64_t d = 0; d < view.shape[3]; ++d) {
          const auto number = from_float<BFloat16>(number_of(token, layer, head, d, is_value));
          std::memcpy(view.at(slot, row, head, d), &number, sizeof number);
        }
      }
    }
  }
}

TEST(OpenBlocks, EveryNumberHasItsOwnPlace) {
  const KvStorage storage(sized(5, 10, 6));
  const OpenBlocks open(storage);
  std::set<std::byte*> places;
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const ArrayView k = open.k_open(layer), v = open.v_open(layer);
    EXPECT_EQ(shape_text(k), "[3, 5, 2, 10]");
    EXPECT_EQ(shape_text(v), "[3, 5, 2, 6]");
    EXPECT_EQ(k.dtype, DType::bfloat16);
    for (const ArrayView& view : {k, v}) {
      for (std::int64_t slot = 0; slot < 3; ++slot) {
        for (std::int64_t row = 0; row < 5; ++row) {
          for (std::int64_t head = 0; head < 2; ++head) {
            for (std::int64_t d = 0; d < view.shape[3]; ++d) {
              for (std::int64_t byte = 0; byte < 2; ++byte) {
                EXPECT_TRUE(places.insert(view.at(slot, row, head, d) + byte).second);
              }
            }
          }
        }
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(k.at(slot, 0, 1)) % 64, 0u);
      }
    }
  }
  EXPECT_THROW(open.k_open(2), IndexError);
  EXPECT_THROW(open.v_open(-1), IndexError);
  EXPECT_EQ(open.id_of(2), 5);
  EXPECT_TRUE(open.is_open(3));
  EXPECT_FALSE(open.is_open(2));
}

// Addresses cost nothing until they are used.
TEST(OpenBlocks, SlotsCostNothingUnused) {
  KvGeometry geometry = sized(16, 128, 128);
  geometry.num_blocks = 1 << 18;  // 8.6 GB
  const KvStorage storage(geometry);
  const OpenBlocks open(storage);
  const std::int32_t last = (1 << 18) - 1;
  put(open, last, 15, 1);
  float key[128];
  open.read_key(1, {open.id_of(last), 15}, 1, key);
  EXPECT_EQ(key[127], rounded(number_of(1, 1, 1, 127, false)));
}

class SealedRows : public ::testing::TestWithParam<std::array<std::int64_t, 3>> {};

TEST_P(SealedRows, AreWhatGridsMakeOfThem) {
  const auto [block_size, head_dim, v_head_dim] = GetParam();
  const KvStorage storage(sized(block_size, head_dim, v_head_dim));
  OpenBlocks open(storage);
  for (std::int64_t row = 0; row < block_size; ++row) put(open, 1, row, 10 + row);
  {
    const std::lock_guard lock(open.sealing());
    const OpenBlocks::BlockInSlot blocks[] = {{1, 2}};
    open.seal(blocks);
  }
  open.copy_rows({2, 0}, {open.id_of(0), 0}, block_size);  // and opened again
  open.copy_rows({open.id_of(1), 0}, {open.id_of(2), 0}, block_size);
  std::vector<float> key(head_dim), value(v_head_dim), other(std::max(head_dim, v_head_dim));
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (std::int64_t head = 0; head < 2; ++head) {
      std::vector<Int4Grid> grids;
      for (std::int64_t d = 0; d < head_dim; ++d) {
        float lowest = 1e9f, highest = -1e9f;
        for (std::int64_t row = 0; row < block_size; ++row) {
          const float number = rounded(number_of(10 + row, layer, head, d, false));
          lowest = std::min(lowest, number);
          highest = std::max(highest, number);
        }
        grids.push_back(grid_between(lowest, highest));
      }
      for (std::int64_t row = 0; row < block_size; ++row) {
        open.read_key(layer, {2, row}, head, key.data());
        open.read_key(layer, {open.id_of(0), row}, head, other.data());
        for (std::int64_t d = 0; d < head_dim; ++d) {
          const float number = rounded(number_of(10 + row, layer, head, d, false));
          ASSERT_EQ(key[d], from_int4(to_int4(number, grids[d]), grids[d]));
          ASSERT_EQ(other[d], rounded(key[d]));
        }
        open.read_key(layer, {open.id_of(2), row}, head, other.data());
        for (std::int64_t d = 0; d < head_dim; ++d) {
          ASSERT_EQ(other[d], rounded(number_of(10 + row, layer, head, d, false)));
        }
        float lowest = 1e9f, highest = -1e9f;
        for (std::int64_t d = 0; d < v_head_dim; ++d) {
          const float number = rounded(number_of(10 + row, layer, head, d, true));
          lowest = std::min(lowest, number);
          highest = std::max(highest, number);
        }
        const Int4Grid grid = grid_between(lowest, highest);
        open.read_value(layer, {2, row}, head, value.data());
        open.read_value(layer, {open.id_of(0), row}, head, other.data());
        for (std::int64_t d = 0; d < v_head_dim; ++d) {
          const float number = rounded(number_of(10 + row, layer, head, d, true));
          ASSERT_EQ(value[d], from_int4(to_int4(number, grid), grid));
          ASSERT_EQ(other[d], rounded(value[d]));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, SealedRows,
                         ::testing::Values(std::array<std::int64_t, 3>{16, 128, 128},
                                           std::array<std::int64_t, 3>{5, 66, 70},
                                           std::array<std::int64_t, 3>{1, 2, 2},
                                           std::array<std::int64_t, 3>{3, 2, 130},
                                           std::array<std::int64_t, 3>{4, 64, 6}));

// As many blocks as are worth several threads, each with the bits that it has alone.
TEST(OpenBlocks, ThreadsSealTheSameBytes) {
  KvGeometry geometry = sized(16, 128, 64);
  geometry.num_blocks = 40;
  const KvStorage alone(geometry), together(geometry);
  OpenBlocks one_by_one(alone), at_once(together);
  std::vector<OpenBlocks::BlockInSlot> blocks;
  for (std::int32_t slot = 0; slot < 40; ++slot) {
    for (std::int64_t row = 0; row < 16; ++row) {
      put(one_by_one, slot, row, slot * 16 + row);
      put(at_once, slot, row, slot * 16 + row);
    }
    blocks.push_back({slot, (slot + 7) % 40});
    one_by_one.seal({&blocks.back(), 1});
  }
  at_once.seal_with(kPlainSealing, 4);
  at_once.seal(blocks);
  ASSERT_EQ(std::memcmp(alone.memory().data(), together.memory().data(),
                        static_cast<std::size_t>(alone.nbytes())),
            0);
}

TEST(OpenBlocks, CopiesTheRowsItIsAskedFor) {
  const KvStorage storage(sized(5, 6, 4));
  const OpenBlocks open(storage);
  for (std::int64_t row = 0; row < 5; ++row) {
    put(open, 0, row, 10 + row);
    put(open, 1, row, 20 + row);
  }
  open.copy_rows(1, {open.id_of(0), 3}, {open.id_of(1), 1}, 2);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (std::int64_t row = 0; row < 5; ++row) {
      const bool is_copied = layer == 1 && (row == 1 || row == 2);
      float key[6];
      open.read_key(layer, {open.id_of(1), row}, 1, key);
      const auto token = static_cast<std::uint32_t>(is_copied ? 12 + row : 20 + row);
      EXPECT_EQ(key[5], rounded(number_of(token, layer, 1, 5, false))) << layer << " " << row;
    }
  }
}

// Of a pool whose values are the beginnings of its keys: sealed and opened again as keys are.
TEST(OpenBlocks, SharedValuesHaveNoRowsOfTheirOwn) {
  KvGeometry geometry = sized(5, 10, 6);
  geometry.dtype = DType::int8;
  geometry.open_blocks = 1;
  const KvStorage apart(geometry);
  geometry.shared = true;
  const KvStorage storage(geometry);
  const OpenBlocks open(storage), open_apart(apart);
  EXPECT_EQ(open.planes(1).size(), 1u);
  EXPECT_LT(open.slot_bytes(), open_apart.slot_bytes());
  EXPECT_EQ(open.v_open(1).data, open.k_open(1).data);
  EXPECT_EQ(open.v_open(1).strides, open.k_open(1).strides);
  EXPECT_EQ(shape_text(open.v_open(1)), "[3, 5, 2, 6]");
  for (const OpenBlocks* blocks : {&open, &open_apart}) {
    const ArrayView keys[] = {blocks->k_open(0), blocks->k_open(1)};
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      for (std::int64_t row = 0; row < 5; ++row) {
        for (std::int64_t head = 0; head < 2; ++head) {
          for (std::int64_t d = 0; d < 10; ++d) {
            const auto number = from_float<BFloat16>(
                number_of(static_cast<std::uint32_t>(row), layer, head, d, false));
            std::memcpy(keys[layer].at(1, row, head, d), &number, sizeof number);
          }
        }
      }
    }
    const OpenBlocks::BlockInSlot sealed[] = {{1, 2}};
    blocks->seal(sealed);
    blocks->copy_rows({2, 0}, {blocks->id_of(2), 0}, 5);
  }
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (std::int64_t row = 0; row < 5; ++row) {
      for (const std::int32_t id : {2, open.id_of(1), open.id_of(2)}) {
        float key[10], expected[10], value[6];
        open_apart.read_key(layer, {id, row}, 1, expected);
        open.read_key(layer, {id, row}, 1, key);
        open.read_value(layer, {id, row}, 1, value);
        EXPECT_EQ(std::memcmp(key, expected, sizeof key), 0);
        EXPECT_EQ(std::memcmp(value, expected, sizeof value), 0);
      }
    }
  }
}

TEST(OpenBlocks, APoolThatOpensNoneHasNoPlanes) {
  KvGeometry geometry = sized(5, 10, 6);
  EXPECT_EQ(OpenBlocks(KvStorage(geometry)).planes(1).size(), 2u);
  geometry.dtype = DType::int8;
  geometry.open_blocks = 0;
  const KvStorage storage(geometry);
  const OpenBlocks none(storage);
  EXPECT_EQ(none.planes(1).size(), 0u);
  EXPECT_EQ(none.slot_bytes(), 0);
  EXPECT_FALSE(none.is_open(static_cast<std::int32_t>(geometry.num_blocks) - 1));
  EXPECT_EQ(message_of<TypeError>([&] { none.v_open(0); }),
            "BlockPool.v_open: pool: got a pool of int8 without open blocks, expected one of int4, "
            "or with open_blocks");
}

}  // namespace
}  // namespace quire::testing
