// From checked arguments to kernels on threads.
#pragma once

#include <string_view>

#include "quire/cpu/attention/attention_choice.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

// Each on at most `num_threads` threads; fewer where there is too little to do.
//
// Fused looks at dynamic scales itself, under the name of `function`, and writes no result before
// all have passed. Where it can it looks as keys come: whoever looks beforehand reads them twice,
// and with a pager all of a cache that is not in memory. With a plan (attention_plan.h) of these
// arguments it does not make its own.
struct AttentionPlan;
void launch_fused(const PagedAttentionArgs& args, const AttentionChoice& kernels, int num_threads,
                  std::string_view function, AttentionPlan* plan = nullptr);
void launch_gather(const PagedAttentionArgs& args, const AttentionChoice& kernels, int num_threads);

}  // namespace quire
