// The memory of a pool: the keys and values of every block of every layer.
//
//   memory   [num_layers][num_blocks][num_kv_heads] tiles
//   tile     [block_size][head_dim] keys, then [block_size][v_head_dim] values; where they are
//            quantised [block_size] scales of keys, then [block_size] of values, float32, at a
//            multiple of 4; then padding
//
// A tile, all that attention reads of one block for one head, is one stretch that starts at a
// multiple of kTileAlignment. Everybody else sees the natural shape, by strides:
//
//   k_cache(layer)   [num_blocks, block_size, num_kv_heads, head_dim]
//   v_cache(layer)   [num_blocks, block_size, num_kv_heads, v_head_dim]
//   k_scale(layer)   [num_blocks, block_size, num_kv_heads] float32, v_scale(layer) likewise
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/array_view.h"
#include "quire/base/check.h"
#include "quire/base/dtype.h"

namespace quire {

// The machine has no room for a pool of this size. Python: MemoryError.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// Every size is at least 1; num_blocks and block_size fit in an int32, as block ids do.
struct KvGeometry {
  std::int64_t num_blocks = 0;
  std::int64_t block_size = 16;  // tokens of a block
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;    // elements of a key
  std::int64_t v_head_dim = 0;  // elements of a value
  std::int64_t num_layers = 1;
  DType dtype = DType::bfloat16;
};

// The memory is zero, and the system hands out its pages as they are first touched.
class KvStorage {
 public:
  static constexpr std::int64_t kTileAlignment = 64;

  // Throws ValueError for a size out of range, OutOfMemory where the system refuses.
  explicit KvStorage(const KvGeometry& geometry);
  ~KvStorage();
  KvStorage(const KvStorage&) = delete;
  KvStorage& operator=(const KvStorage&) = delete;

  const KvGeometry& geometry() const { return geometry_; }

  // Bytes of all layers, padding included.
  std::int64_t nbytes() const { return geometry_.num_layers * layer_bytes_; }

  // Writable views of one layer, valid while this lives. Throws IndexError for an unknown layer.
  ArrayView k_cache(std::int64_t layer) const;
  ArrayView v_cache(std::int64_t layer) const;

  // The same of the scales. Throws TypeError for a pool whose dtype has none.
  ArrayView k_scale(std::int64_t layer) const;
  ArrayView v_scale(std::int64_t layer) const;

  // Copies all rows of a block with their scales, in every layer. Nobody may write either block
  // meanwhile.
  void copy_block(std::int32_t from, std::int32_t to) const;

  // Copies the first `rows` of a block with their scales, in every layer, and touches no others.
  void copy_rows(std::int32_t from, std::int32_t to, std::int64_t rows) const;

 private:
  void check_layer(const char* place, std::int64_t layer) const;
  void check_quantised(const char* place) const;
  ArrayView view(std::int64_t layer, std::int64_t offset, std::int64_t row_size) const;
  ArrayView scale_view(std::int64_t layer, std::int64_t index) const;

  KvGeometry geometry_;
  std::int64_t scale_offset_ = 0;  // of a tile's scales, where it has them
  std::int64_t tile_bytes_ = 0;
  std::int64_t block_bytes_ = 0;
  std::int64_t layer_bytes_ = 0;
  void* mapping_ = nullptr;  // what the system gave, mapping_bytes_ long
  std::size_t mapping_bytes_ = 0;
  std::byte* memory_ = nullptr;  // the first tile, at the start of a huge page
};

}  // namespace quire
