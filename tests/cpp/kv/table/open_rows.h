// Pools with open blocks, rows in them, and which blocks their tables read open.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"
#include "quire/kv/table/held_tables.h"

namespace quire::testing {

// A dtype, and how many of the last blocks are open; int4 has 2 unless told.
struct OpenKind {
  DType dtype = DType::int4;
  std::optional<std::int64_t> open_blocks = std::nullopt;
};

inline constexpr OpenKind kOpenKinds[] = {
    {DType::int4}, {DType::int8, 2}, {DType::float8_e4m3fn, 1}, {DType::int4, 3}};

// "int4_2", for tests by kind.
inline std::string name_of_kind(const OpenKind& kind) {
  return concat(name_of(kind.dtype), "_", kind.open_blocks.value_or(2));
}
struct NameOfKind {
  std::string operator()(const ::testing::TestParamInfo<OpenKind>& info) const {
    return name_of_kind(info.param);
  }
};

inline const KvGeometry kInt4Pool{.num_blocks = 0,
                                  .block_size = 4,
                                  .num_kv_heads = 2,
                                  .head_dim = 4,
                                  .v_head_dim = 2,
                                  .num_layers = 2,
                                  .dtype = DType::int4};

inline KvGeometry geometry_of(const OpenKind& kind, std::int64_t num_blocks,
                              std::int64_t block_size = 4) {
  KvGeometry geometry = kInt4Pool;
  geometry.num_blocks = num_blocks;
  geometry.block_size = block_size;
  geometry.dtype = kind.dtype;
  geometry.open_blocks = kind.open_blocks;
  return geometry;
}

// Of three blocks of int4, with these sizes.
inline KvGeometry sized(std::int64_t block_size, std::int64_t head_dim, std::int64_t v_head_dim) {
  return {.num_blocks = 3,
          .block_size = block_size,
          .num_kv_heads = 2,
          .head_dim = head_dim,
          .v_head_dim = v_head_dim,
          .num_layers = 2,
          .dtype = DType::int4};
}

inline std::shared_ptr<BlockPool> new_open_pool(const OpenKind& kind, std::int64_t num_blocks,
                                                std::int64_t block_size = 4) {
  return std::make_shared<BlockPool>(geometry_of(kind, num_blocks, block_size));
}

// The same in a file, with memory for `slots` open blocks, or fewer and what is sealed.
inline std::shared_ptr<BlockPool> new_backed_open_pool(const OpenKind& kind,
                                                       const std::string& path,
                                                       std::int64_t num_blocks, std::int64_t slots,
                                                       std::int64_t block_size = 4) {
  const KvGeometry geometry = geometry_of(kind, num_blocks, block_size);
  const KvStorage storage(geometry, path);
  const std::int64_t bytes = slots * OpenBlocks(storage).slot_bytes();
  return std::make_shared<BlockPool>(geometry,
                                     BackingFile{path, Residency::least_bytes(storage) + bytes});
}

inline std::shared_ptr<BlockPool> new_int4_pool(std::int64_t num_blocks,
                                                std::int64_t block_size = 4) {
  return new_open_pool({}, num_blocks, block_size);
}

// Numbers that have no short form, so that rounding shows, and differ for every place.
inline float number_of(std::uint32_t token, std::int64_t layer, std::int64_t head, std::int64_t d,
                       bool is_value) {
  const std::uint32_t mixed =
      (token + 1) * 2654435761u +
      static_cast<std::uint32_t>(layer * 40503 + head * 9176 + d * 131 + is_value * 77);
  return static_cast<float>(static_cast<std::int32_t>(mixed ^ mixed >> 15) % 1000) / 77.0f;
}

inline float rounded(float value) { return to_float(from_float<BFloat16>(value)); }

// Writes number(layer, head, d, is_value) to all places of a row in the slot of an open block.
template <class Number>
void write_open_row(const BlockPool& pool, std::int64_t slot, Number number) {
  const KvGeometry& geometry = pool.geometry();
  const std::int64_t place = slot - geometry.num_blocks * geometry.block_size;
  ASSERT_GE(place, 0);
  for (std::int64_t layer = 0; layer < geometry.num_layers; ++layer) {
    for (const bool is_value : {false, true}) {
      const ArrayView open =
          is_value ? pool.open_blocks().v_open(layer) : pool.open_blocks().k_open(layer);
      for (std::int64_t head = 0; head < geometry.num_kv_heads; ++head) {
        for (std::int64_t d = 0; d < open.shape[3]; ++d) {
          const BFloat16 bits = from_float<BFloat16>(number(layer, head, d, is_value));
          std::memcpy(open.at(place / geometry.block_size, place % geometry.block_size, head, d),
                      &bits, sizeof bits);
        }
      }
    }
  }
}

// The rows of a token.
inline void write_open(const BlockPool& pool, std::int64_t slot, std::uint32_t token) {
  write_open_row(pool, slot, [token](auto... place) { return number_of(token, place...); });
}

inline void append_open(BlockTable& table, const std::vector<std::uint32_t>& tokens) {
  std::vector<std::int64_t> slots(tokens.size());
  std::size_t next = 0;
  table.append(slots, [&](std::span<const std::int64_t> part) {
    for (const std::int64_t slot : part) write_open(*table.pool(), slot, tokens[next++]);
  });
  ASSERT_EQ(next, tokens.size());
}

using Tokens = std::vector<std::uint32_t>;

inline Tokens tokens_from(std::uint32_t first, std::int64_t count) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// extend, and the rows written.
inline void extend_open(BlockTable& table, const Tokens& tokens) {
  const std::vector<std::int64_t> slots = table.extend(std::ssize(tokens));
  for (std::size_t i = 0; i < slots.size(); ++i) write_open(*table.pool(), slots[i], tokens[i]);
}

// The ids of a table's columns as attention knows them.
inline std::vector<std::int32_t> packed(const BlockTable& table) {
  const BlockTable* const list[] = {&table};
  const HeldTables held("pack", list);
  std::vector<std::int32_t> ids(held.max_blocks());
  std::int32_t length = 0;
  held.pack(-1, ids.data(), &length);
  return ids;
}

// Whether an operation on a table finds no memory for open blocks, where that is limited and fewer
// than `most` are left, the most that it asks for at least; the table stays what it is then.
template <class Operation>
bool finds_no_room(const BlockTable& table, std::int64_t most, Operation operation) {
  const std::int64_t left = table.pool()->open_room().left();
  const std::vector<std::int32_t> blocks = table.blocks(), ids = packed(table);
  try {
    operation();
  } catch (const OutOfBlocks&) {
    EXPECT_LT(left, most);
    EXPECT_EQ(table.blocks(), blocks);
    EXPECT_EQ(packed(table), ids);
    return true;
  }
  return false;
}

// The blocks that tables of a pool read open.
class OpenPlaces {
 public:
  // Those of a table, where is_open(column); the others it reads sealed.
  template <class IsOpen>
  ::testing::AssertionResult add(const BlockTable& table, IsOpen is_open) {
    const std::vector<std::int32_t> ids = packed(table), blocks = table.blocks();
    for (std::int64_t column = 0; column < std::ssize(ids); ++column) {
      const std::int32_t block = blocks[column], id = ids[column];
      const bool expected = block != kHole && is_open(column);
      if ((id != block) != expected || (expected && id < table.pool()->geometry().num_blocks)) {
        return ::testing::AssertionFailure() << "column " << column << " is read as " << id;
      }
      if (expected && ids_.emplace(block, id).first->second != id) {
        return ::testing::AssertionFailure() << "block " << block << " is open at two places";
      }
    }
    return ::testing::AssertionSuccess();
  }

  // Whether they are the pool's open blocks, but for some that users hold, who keep them open.
  ::testing::AssertionResult are_all(const BlockPool& pool,
                                     const std::vector<std::int32_t>& users) const {
    const std::set<std::int32_t> held(users.begin(), users.end());
    const std::int64_t most =
        std::ssize(ids_) +
        std::count_if(held.begin(), held.end(), [&](auto block) { return !ids_.contains(block); });
    const std::int64_t open = pool.stats().open_blocks;
    if (open < std::ssize(ids_) || open > most) {
      return ::testing::AssertionFailure()
             << open << " open blocks, expected " << ids_.size() << " to " << most;
    }
    return ::testing::AssertionSuccess();
  }

 private:
  std::map<std::int32_t, std::int32_t> ids_;  // by block
};

}  // namespace quire::testing
