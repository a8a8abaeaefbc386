// From checked arguments to kernels on threads.
#pragma once

#include "quire/attention/paged_attention.h"
#include "quire/cpu/kernels.h"

namespace quire {

// Each on at most `num_threads` threads; fewer where there is too little to do.
void launch_fused(const PagedAttentionArgs& args, const Kernels& kernels, int num_threads);
void launch_gather(const PagedAttentionArgs& args, const Kernels& kernels, int num_threads);

}  // namespace quire
