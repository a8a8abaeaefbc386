// Which instruction set runs.
#pragma once

#include <string_view>
#include <vector>

#include "quire/cpu/kernels.h"

namespace quire {

// The fastest that this processor has for caches of such a dtype, or the one that the environment
// variable QUIRE_CPU names. Throws ValueError where it names one that is not built in or that the
// processor lacks.
const Kernels& selected_kernels(DType cache = DType::bfloat16);

// Names, the richest first: of all that this build holds, and of those that this processor has.
std::vector<std::string_view> built_instruction_sets();
std::vector<std::string_view> available_instruction_sets();

}  // namespace quire
