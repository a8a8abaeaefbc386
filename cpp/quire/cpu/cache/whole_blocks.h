// New keys and values into whole blocks of a quantised cache that has open blocks beside it, where
// they would not stay open: straight into the sealed ones.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "quire/base/array_view.h"
#include "quire/cpu/cache/cache_kernels.h"

namespace quire {

// Rows of keys or of values, and where they go.
struct WholeRows {
  ArrayView rows;   // [blocks * block_size, Hkv, D or Dv], plain floats
  ArrayView cache;  // [num_blocks, block_size, Hkv, ..], written
  ArrayView scale;  // dynamic scales, or grids (cache_scales.h), written
};

struct WholeBlocks {
  WholeRows k;
  std::optional<WholeRows> v;            // none: values are the beginnings of their keys
  std::span<const std::int32_t> blocks;  // in the order of their rows, all different
};

// The bits that the rows have once they were written to open blocks, rounded to `open_dtype`, and
// sealed. On at most num_threads threads.
void write_whole_blocks(const WholeBlocks& args, DType open_dtype, const CacheKernels& kernels,
                        int num_threads);

}  // namespace quire
