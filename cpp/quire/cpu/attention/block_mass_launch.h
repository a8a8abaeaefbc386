// Attention mass by block: a second pass over the keys, on threads.
#pragma once

#include "quire/cpu/attention/attention_choice.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

// Fills args.block_mass of checked arguments, but for the columns of blocks that a row does not
// see, which are 0 already. With a pager that is another pass in stretches. The same bits for a
// sequence whatever the batch, the threads and the stretches.
void launch_block_mass(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                       int num_threads);

}  // namespace quire
