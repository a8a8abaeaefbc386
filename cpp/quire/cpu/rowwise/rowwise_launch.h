// Norms, rotations and activations, from arguments to kernels on threads.
#pragma once

#include <string_view>

#include "quire/cpu/execution.h"
#include "quire/ops/activation/swiglu.h"
#include "quire/ops/norm/rms_norm.h"
#include "quire/ops/rotary/rope.h"

namespace quire {

// Each computes out. They throw ValueError, TypeError or IndexError, under the name of `function`,
// before anything is written.
void rms_norm(const RmsNormArgs& args, const Execution& how,
              std::string_view function = "rms_norm");
void swiglu(const SwigluArgs& args, const Execution& how, std::string_view function = "swiglu");
void rope(const RopeArgs& args, const Execution& how, std::string_view function = "rope");

}  // namespace quire
