// Fused attention over keys that a pager brings into memory (quire/ops/attention/key_pager.h).
#pragma once

#include <string_view>

#include "quire/cpu/attention/attention_choice.h"
#include "quire/cpu/plan/split.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

// Does the work of `plan` in stretches, each on at most `num_threads` threads: every unit and part
// as usual, only in another order, so that the bits are those of launch_fused. Returns false, and
// has done nothing, where the pager says that all keys are in memory. Memory: the states of all
// parts at once.
//
// Looks at the scales of a stretch when it has come, and throws as check_dynamic_scales does, under
// the name of `function`; results are written once all stretches have passed.
bool launch_streamed(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                     const WorkPlan& plan, int num_threads, std::string_view function);

}  // namespace quire
