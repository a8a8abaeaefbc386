// Rows of new keys, or of new values, into the slots of a paged cache.
#pragma once

#include <cstdint>

#include "quire/base/array_view.h"
#include "quire/cpu/cache/cache_kernels.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

// New tokens [row, row + count), which go to slots [offset, offset + count) of one block.
struct SlotRun {
  std::int64_t row, block, offset, count;
};

// Writes k [n, heads, length] to k_cache, or v to v_cache, rounded to the cache's dtype.
class RowWriter {
 public:
  RowWriter(const ArrayView& rows, const ArrayView& cache, Layout layout,
            const CacheKernels& kernels);

  // `streamed`: past the caches where tokens are adjacent in the cache; stream_fence() then has to
  // follow.
  void write(const SlotRun& run, bool streamed) const;

 private:
  void copy(const RowsCopy& rows) const;
  void stream(const RowsCopy& rows) const;

  RowsCopy rows_;  // the first token's, of head 0, which would go to offset 0 of block 0
  DType from_dtype_, dtype_;
  std::int64_t from_item_, item_;  // bytes of an element
  std::int64_t heads_;
  std::int64_t from_head_stride_, head_stride_, block_stride_;
  const CacheKernels& kernels_;
};

}  // namespace quire
