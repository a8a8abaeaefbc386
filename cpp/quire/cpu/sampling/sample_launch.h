// The choice of next tokens, from arguments to kernels on threads.
#pragma once

#include <string_view>

#include "quire/cpu/execution.h"
#include "quire/ops/sampling/sample.h"

namespace quire {

// Computes out, a row of logits on one thread. Throws ValueError, IndexError or TypeError, under
// the name of `function`, before anything is written.
void sample(const SampleArgs& args, const Execution& how, std::string_view function = "sample");

}  // namespace quire
