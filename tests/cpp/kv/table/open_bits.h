// The bits that a table with open blocks reads, column by column.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kv/table/open_rows.h"

namespace quire::testing {

// Of each column "hole", or "open" or "sealed" and the bytes of the rows that the table counts; of
// a sealed one of int4 the grids of its channels as well.
inline std::vector<std::string> read_bits(const BlockTable& table) {
  const BlockPool& pool = *table.pool();
  const KvGeometry& geometry = pool.geometry();
  const std::vector<std::int32_t> ids = packed(table);
  std::vector<std::string> columns;
  for (std::size_t column = 0; column < ids.size(); ++column) {
    std::string& bits = columns.emplace_back();
    if (ids[column] == kHole) {
      bits = "hole";
      continue;
    }
    const bool is_open = ids[column] >= geometry.num_blocks;
    bits = is_open ? "open" : "sealed";
    const std::int64_t block = is_open ? ids[column] - geometry.num_blocks : ids[column];
    const std::int64_t rows =
        std::min(geometry.block_size,
                 table.num_tokens() - static_cast<std::int64_t>(column) * geometry.block_size);
    const auto add = [&](const std::byte* from, std::int64_t bytes) {
      bits.append(reinterpret_cast<const char*>(from), static_cast<std::size_t>(bytes));
    };
    for (std::int64_t layer = 0; layer < geometry.num_layers; ++layer) {
      std::vector<ArrayView> views;
      if (is_open) {
        views = {pool.open_blocks().k_open(layer), pool.open_blocks().v_open(layer)};
      } else if (const KvStorage& storage = pool.storage(); geometry.dtype != DType::int4) {
        for (const KvPlane& plane : storage.planes(layer)) views.push_back(plane.view);
      } else {
        views = {storage.k_cache(layer), storage.v_cache(layer), storage.v_scale(layer)};
      }
      for (std::int64_t head = 0; head < geometry.num_kv_heads; ++head) {
        for (const ArrayView& view : views) {
          for (std::int64_t row = 0; row < rows; ++row) {
            add(view.at(block, row, head), view.shape[3] * view.strides[3]);
          }
        }
        if (!is_open && geometry.dtype == DType::int4) {
          add(pool.storage().k_scale(layer).at(block, head),
              geometry.head_dim * static_cast<std::int64_t>(sizeof(Int4Grid)));
        }
      }
    }
  }
  return columns;
}

// Ones in all bits of a pool that nobody uses: what is none of its numbers.
inline void poison(const BlockPool& pool) {
  const KvGeometry& geometry = pool.geometry();
  std::memset(pool.storage().memory().data(), 0xff,
              static_cast<std::size_t>(pool.storage().nbytes()));
  for (std::int64_t layer = 0; layer < geometry.num_layers; ++layer) {
    for (const ArrayView& open :
         {pool.open_blocks().k_open(layer), pool.open_blocks().v_open(layer)}) {
      for (std::int64_t slot = 0; slot < geometry.num_blocks; ++slot) {
        for (std::int64_t head = 0; head < geometry.num_kv_heads; ++head) {
          std::memset(open.at(slot, 0, head), 0xff,
                      static_cast<std::size_t>(geometry.block_size * open.strides[1]));
        }
      }
    }
  }
}

}  // namespace quire::testing
