// What files have of a pool: planes, as KvStorage has them (kv_storage.h), and with open blocks
// those of two kinds, sealed and open ones (open_blocks.h). For every layer L
//
//   of tiles         "layers.L.k"         [rows, num_kv_heads, head_dim]; of int4 U8, head_dim / 2
//                    "layers.L.v"         likewise
//     quantised      "layers.L.k_scale"   F32 [rows, num_kv_heads, 1], "layers.L.v_scale" likewise
//     of int4        "layers.L.k_scale"   F16 [blocks, num_kv_heads, head_dim, 2]
//                    "layers.L.v_scale"   F16 [rows, num_kv_heads, 2]
//   of open blocks   "layers.L.k_open"    BF16 [rows, num_kv_heads, head_dim]
//                    "layers.L.v_open"    likewise
//
// and those of keys alone of a pool whose values are the beginnings of its keys,
// with a row for each token that is in a block of the kind. Row r of int4 is of block r /
// block_size there, as all blocks but the last are full.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"
#include "quire/kv/pool/block_pool.h"

namespace quire {

// Where a pool has the rows: blocks of the second kind are known by their slot.
enum class RowsOf { tiles, open_blocks };

struct FilePlane {
  // What its numbers must be, of those that attention believes, as it reads them again and again:
  // open rows and grids, and what becomes an open row when it is written behind (block_table.h).
  enum class Numbers { any, bounded, scales, grids };

  std::string_view name;
  // [blocks, rows of a block, num_kv_heads, elements], those of a head contiguous. A plane with one
  // row for the whole block has one for each block, however many of its tokens there are.
  ArrayView view;
  Numbers numbers = Numbers::any;
  std::vector<std::int64_t> row_shape;  // of the elements, in a file
  float largest = 0.0f;                 // in magnitude, of bounded numbers; of scales

  std::int64_t rows_of(std::int64_t tokens) const { return std::min(tokens, view.shape[1]); }
  std::int64_t head_bytes() const { return view.shape[3] * view.strides[3]; }
  std::int64_t row_bytes() const { return view.shape[2] * head_bytes(); }

  // What makes these rows none of a pool, the first of which is row `first` of the tensor, as
  // "a SOMETHING at [PLACE], expected ..."; "" where there is nothing.
  std::string flaw(std::span<const std::byte> rows, std::int64_t first) const;
};

// Always in the same order. A pool without open blocks has no planes of them.
std::vector<FilePlane> file_planes(const BlockPool& pool, RowsOf kind, std::int64_t layer);

}  // namespace quire
