// Matrix products with a packed weight, from arguments to kernels on threads.
#pragma once

#include <string_view>

#include "quire/cpu/execution.h"
#include "quire/ops/linear/linear.h"

namespace quire {

// Computes out. Throws ValueError or TypeError, under the name of `function`, before anything is
// written.
void linear(const LinearArgs& args, const Execution& how, std::string_view function = "linear");

}  // namespace quire
