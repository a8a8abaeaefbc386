// Tokens whose blocks would not stay open, written straight into their tiles.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kv/table/open_rows.h"
#include "quire/format/row_sealing.h"

namespace quire::testing {

// Writes the rows of tokens that fill these blocks into their tiles, as sealing would.
inline void write_sealed(const BlockPool& pool, std::span<const std::int32_t> blocks,
                         const std::uint32_t* tokens) {
  const KvGeometry& geometry = pool.geometry();
  const KvStorage& storage = pool.storage();
  const auto seal = [&](std::int64_t layer, std::size_t i, std::int64_t head, bool is_value) {
    const ArrayView cache = is_value ? storage.v_cache(layer) : storage.k_cache(layer);
    const ArrayView scale = is_value ? storage.v_scale(layer) : storage.k_scale(layer);
    const std::int64_t size = is_value ? geometry.v_head_dim : geometry.head_dim;
    std::vector<float> numbers;
    for (std::int64_t row = 0; row < geometry.block_size; ++row) {
      const std::uint32_t token = tokens[i * geometry.block_size + row];
      for (std::int64_t d = 0; d < size; ++d) {
        numbers.push_back(rounded(number_of(token, layer, head, d, is_value)));
      }
    }
    const RowsToSeal rows = {reinterpret_cast<const std::byte*>(numbers.data()), 4 * size,
                             DType::float32, geometry.block_size, size};
    std::byte* const to = cache.at(blocks[i], 0, head);
    if (geometry.dtype != DType::int4) {
      kPlainSealing.rows(rows, geometry.dtype,
                         {to, cache.strides[1], scale.at(blocks[i], 0, head), scale.strides[1]});
    } else if (is_value) {
      kPlainSealing.values(rows,
                           {to, cache.strides[1], scale.at(blocks[i], 0, head), scale.strides[1]});
    } else {
      kPlainSealing.keys(rows, {to, cache.strides[1], scale.at(blocks[i], head), 0});
    }
  };
  for (std::int64_t layer = 0; layer < geometry.num_layers; ++layer) {
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      for (std::int64_t head = 0; head < geometry.num_kv_heads; ++head) {
        for (const bool is_value : {false, true}) seal(layer, i, head, is_value);
      }
    }
  }
}

// append_open, but without opening blocks that would not stay open.
inline void append_straight(BlockTable& table, const Tokens& tokens) {
  std::vector<std::int64_t> slots(tokens.size());
  std::size_t next = 0;
  table.append(
      slots,
      [&](std::span<const std::int64_t> part) {
        for (const std::int64_t slot : part) write_open(*table.pool(), slot, tokens[next++]);
      },
      [&](std::span<const std::int32_t> blocks, std::int64_t first) {
        ASSERT_EQ(first, static_cast<std::int64_t>(next));
        write_sealed(*table.pool(), blocks, tokens.data() + first);
        for (const std::int32_t block : blocks) {
          const std::int64_t begin = block * table.pool()->geometry().block_size;
          ASSERT_EQ(slots[next], begin);
          next += table.pool()->geometry().block_size;
          ASSERT_EQ(slots[next - 1], begin + table.pool()->geometry().block_size - 1);
        }
      });
  ASSERT_EQ(next, tokens.size());
}

}  // namespace quire::testing
