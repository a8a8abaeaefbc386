// What the keys of each block have of every softmax, as a result that a call makes.
#pragma once

#include <cstdint>

#include "quire/base/aligned_buffer.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

// [T, Hq, max_blocks] contiguous, 0 where a row sees no key of a block; over tables max_blocks is
// the number of columns of the longest. With the sink's share a row sums to 1.
struct BlockMassResult {
  AlignedFloats values;
  std::int64_t max_blocks = 0;
};

// Gives checked arguments memory for it. Throws bad_alloc, also where its size cannot be counted.
void make_block_mass(PagedAttentionArgs& args, BlockMassResult& result);

}  // namespace quire
