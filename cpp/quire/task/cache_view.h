// Where the rows of arrays and paged caches lie: pointers and strides.
//
// What stands in this folder is plain data that a kernel is told of one call, the same for every
// processor that computes it: no containers, no functions, nothing but fixed-width integers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/task/dtype_name.h"

namespace quire {

// A float array of up to two leading axes and a contiguous last one; strides in bytes.
struct RowsView {
  std::byte* data;
  std::int64_t strides[2];
  DType dtype;
};

// What the numbers of a cache are multiplied by.
enum class ScaleKind : std::uint8_t {
  none,   // nothing: they are plain floats
  rows,   // a float, of each row its own or one that many rows share
  grids,  // a step and a middle (format/int4_grid.h), of each channel of a block's keys, and of
          // each value
};

// That of (block, offset, kv_head) lies at the sum of its strides, in bytes; what many share has
// strides of 0. The grids of a block's keys lie one after the other, by channel.
struct ScaleView {
  const std::byte* data;
  std::int64_t block_stride, token_stride, head_stride;
  ScaleKind kind;
};

// A paged cache: row (block, offset, kv_head) begins at the sum of its strides, in bytes.
struct CacheView {
  const std::byte* data;
  std::int64_t block_stride, token_stride, head_stride;
  DType dtype;
  ScaleView scale;
};

// One sequence's row of the block table, int64.
struct BlockRow {
  const std::byte* data;
  std::int64_t stride;  // bytes
};

}  // namespace quire
