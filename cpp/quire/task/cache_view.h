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

// The scales of a quantised cache: that of (block, offset, kv_head), a float, lies at the sum of
// its strides, in bytes. Those of a scale that many share are 0. Without `data` there are none.
// Of an int4 cache they are grids (int4_grid.h): of a key block and head one for each channel, one
// after the other, and of a value and head one.
struct ScaleView {
  const std::byte* data;
  std::int64_t block_stride, token_stride, head_stride;
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
