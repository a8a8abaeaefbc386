// Operators that keep a state for each sequence, from arguments to kernels on threads.
#pragma once

#include <string_view>

#include "quire/cpu/execution.h"
#include "quire/ops/recurrent/causal_conv1d.h"
#include "quire/ops/recurrent/gated_delta_rule.h"

namespace quire {

// Each computes out, and brings state up to date. They throw ValueError or TypeError, under the
// name of `function`, before anything is written.
void causal_conv1d(const CausalConv1dArgs& args, const Execution& how,
                   std::string_view function = "causal_conv1d");
void gated_delta_rule(const GatedDeltaRuleArgs& args, const Execution& how,
                      std::string_view function = "gated_delta_rule");

}  // namespace quire
