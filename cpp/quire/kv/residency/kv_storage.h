// The memory of a pool: the keys and values of every block of every layer.
//
//   memory   [num_layers][num_blocks][num_kv_heads] tiles
//   tile     [block_size][head_dim] keys, then [block_size][v_head_dim] values; where they are
//            quantised [block_size] scales of keys, then [block_size] of values, float32, at a
//            multiple of 4; then padding
//   of int4  [block_size][head_dim / 2] codes of keys, [block_size][v_head_dim / 2] of values, then
//            at a multiple of 4 a grid for each of head_dim channels of the keys, and one for each
//            of block_size values (int4_grid.h); then padding
//
// A tile, all that attention reads of one block for one head, is one stretch that starts at a
// multiple of kTileAlignment; in a file, a block of a layer begins at a page, so that each can be
// in memory or not by itself (block_memory.h). Everybody else sees the natural shape, by strides:
//
//   k_cache(layer)   [num_blocks, block_size, num_kv_heads, head_dim]
//   v_cache(layer)   [num_blocks, block_size, num_kv_heads, v_head_dim]
//   k_scale(layer)   [num_blocks, block_size, num_kv_heads] float32, v_scale(layer) likewise
//
// Both are planes. Whatever copies or stores rows goes by planes(layer), which lists all there is.
// Of int4 the last axes are head_dim / 2 and v_head_dim / 2 bytes, and grids, float16, are
//
//   k_scale(layer)   [num_blocks, num_kv_heads, head_dim, 2]
//   v_scale(layer)   [num_blocks, block_size, num_kv_heads, 2]
//
// There a row cannot be written by itself, and has no planes: blocks are written whole, from
// OpenBlocks. Those of int8 and float8 can be too.
//
// Of latent attention a value is the first v_head_dim numbers of its key (DeepSeek-V2, arXiv
// 2405.04434, section 2.1). A pool that shares them has neither values nor scales of values in its
// tiles, nor planes of them: v_cache(layer) and v_scale(layer) are views of what keys have.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "quire/base/array_view.h"
#include "quire/base/check.h"
#include "quire/base/dtype.h"
#include "quire/format/cache_format.h"
#include "quire/kv/residency/block_memory.h"

namespace quire {

// Every size is at least 1; num_blocks and block_size fit in an int32, as block ids do. Of int4
// head sizes are even. Where blocks stay open 2 * num_blocks fits: they have ids of their own.
struct KvGeometry {
  std::int64_t num_blocks = 0;
  std::int64_t block_size = 16;  // tokens of a block
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;    // elements of a key
  std::int64_t v_head_dim = 0;  // elements of a value
  std::int64_t num_layers = 1;
  DType dtype = DType::bfloat16;
  // Last blocks of a table that are in full precision (open_blocks.h), of quantised dtypes; none:
  // as many as the dtype's format says.
  std::optional<std::int64_t> open_blocks = std::nullopt;
  // A value is the first v_head_dim <= head_dim numbers of its key, and stored there alone. Not of
  // int4, whose keys and values are on grids of two kinds.
  bool shared = false;

  // Numbers that a tile has of the value of a token.
  std::int64_t own_v_head_dim() const { return shared ? 0 : v_head_dim; }
  std::int64_t num_open() const { return open_blocks.value_or(format_of(dtype).open_blocks); }
  // Whether rows are written open, and sealed later; else they are written where they stay.
  bool opens_blocks() const { return num_open() > 0; }
  // Rows that a block has at least for a cache to keep it: only full ones are sealed.
  std::int64_t least_cached_rows() const { return opens_blocks() ? block_size : 1; }
};

// One array of a layer, which has a row for each head of each slot.
struct KvPlane {
  std::string_view name;  // "k", "v"; lives as long as the program
  ArrayView view;  // [num_blocks, block_size, num_kv_heads, elements of a row], rows contiguous
};

// The planes of a layer, always in the same order. Takes no memory of the heap.
class KvPlanes {
 public:
  void add(std::string_view name, const ArrayView& view) { planes_.at(size_++) = {name, view}; }
  std::size_t size() const { return size_; }
  const KvPlane* begin() const { return planes_.data(); }
  const KvPlane* end() const { return planes_.data() + size_; }

 private:
  std::array<KvPlane, 4> planes_;
  std::size_t size_ = 0;
};

// Where a token of a pool has its rows.
struct RowPlace {
  std::int32_t block;
  std::int64_t row;
};

// The memory is zero, and the system hands out its pages as they are first touched.
class KvStorage {
 public:
  static constexpr std::int64_t kTileAlignment = 64;

  // In a file at `backing_file`, or where that is empty in memory of the process. Throws ValueError
  // for a size out of range, OutOfMemory or FileError where the system refuses.
  explicit KvStorage(const KvGeometry& geometry, const std::string& backing_file = {});

  const KvGeometry& geometry() const { return geometry_; }

  // Bytes of all layers, padding included.
  std::int64_t nbytes() const { return geometry_.num_layers * layer_bytes_; }
  // Of a block in one layer, as they follow each other.
  std::int64_t block_bytes() const { return block_bytes_; }
  BlockMemory& memory() const { return *memory_; }

  // Writable views of one layer, valid while this lives. Throws IndexError for an unknown layer.
  ArrayView k_cache(std::int64_t layer) const;
  ArrayView v_cache(std::int64_t layer) const;
  KvPlanes planes(std::int64_t layer) const;

  // The same of the scales, or grids. Throws TypeError for a pool whose dtype has none.
  ArrayView k_scale(std::int64_t layer) const;
  ArrayView v_scale(std::int64_t layer) const;

  // Copies all rows of a block with their scales, in every layer. Nobody may write either block
  // meanwhile.
  void copy_block(std::int32_t from, std::int32_t to) const;

  // Copies so many rows, with all that belongs to them, in every layer or in one, and touches no
  // others. The two stretches may not overlap. Not where a
  // block is sealed whole.
  void copy_rows(RowPlace from, RowPlace to, std::int64_t rows) const;
  void copy_rows(std::int64_t layer, RowPlace from, RowPlace to, std::int64_t rows) const;

 private:
  void check_layer(const char* place, std::int64_t layer) const;
  void check_quantised(const char* place) const;
  bool has_grids() const { return format_of(geometry_.dtype).scales == ScaleKind::grids; }
  ArrayView view(std::int64_t layer, std::int64_t offset, std::int64_t row_size) const;
  ArrayView scale_view(std::int64_t layer, std::int64_t offset) const;
  ArrayView grid_view(std::int64_t layer, std::int64_t offset) const;
  std::int64_t bytes_of(std::int64_t head_dim) const {  // in a tile
    return geometry_.block_size * (head_dim / numbers_of(geometry_.dtype)) *
           static_cast<std::int64_t>(size_of(geometry_.dtype));
  }

  KvGeometry geometry_;
  std::int64_t k_scale_offset_ = 0;  // of a tile's scales, where it has them
  std::int64_t v_scale_offset_ = 0;
  std::int64_t tile_bytes_ = 0;
  std::int64_t block_bytes_ = 0;
  std::int64_t layer_bytes_ = 0;
  std::unique_ptr<BlockMemory> memory_;
};

}  // namespace quire
