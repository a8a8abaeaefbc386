// Attention once its arguments are known to be right.
#pragma once

#include <string_view>

#include "quire/cpu/execution.h"
#include "quire/cpu/operations.h"
#include "quire/cpu/plan/attention_plan.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

// Of arguments that validate has passed and whose indices are int64 and the caller's own: nobody
// changes them meanwhile. Throws, under the name of `function`, for a wrong scale or grid of a slot
// that is read. Fused takes `plan`, which plan_attention made of these arguments or of others of
// the same PlanKind over the same tables; without one it makes its own.
void run_attention(const PagedAttentionArgs& args, Implementation implementation,
                   const Execution& how, std::string_view function, AttentionPlan* plan = nullptr);

}  // namespace quire
