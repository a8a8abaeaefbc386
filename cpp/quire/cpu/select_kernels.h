// Which kernels run.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cpu/attention/attention_choice.h"
#include "quire/cpu/cache/cache_kernels.h"
#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/cpu/operators/operator_kernels.h"
#include "quire/cpu/probe/probe_kernels.h"

namespace quire {

// For each operator and path the fastest kernels of those that were there to choose from.
struct SelectedKernels {
  const AttentionChoice& attention(DType dtype) const {
    return attention_of[static_cast<std::size_t>(dtype)];
  }

  std::array<AttentionChoice, static_cast<std::size_t>(DType::int4) + 1> attention_of;
  const CacheKernels* cache;
  const ProbeKernels* probe;
  const GemmKernels* gemm;
  const OperatorKernels* operators;
  std::string_view instruction_set;  // the one that was named; empty where none was
};

// The fastest that this processor has, or those of the instruction set that the environment
// variable QUIRE_CPU names. Throws ValueError where it names one that is not built in or that the
// processor lacks. The environment is read by the first call that finds nothing wrong, and not
// again: what was selected is the process's own until it ends.
const SelectedKernels& selected_kernels();

// Has the next call of selected_kernels() read the environment anew, for who changes it and knows
// that nobody else does meanwhile. What was selected before stays valid.
void read_environment_again();

// Those of one instruction set, as if QUIRE_CPU named it. Throws as selected_kernels() does.
const SelectedKernels& kernels_named(std::string_view instruction_set);

// One that this build holds and this processor, or its system, lacks; null reasons are left out.
struct MissingInstructionSet {
  std::string_view name, reason;
};
std::vector<MissingInstructionSet> missing_instruction_sets();

// Names, the richest first: of all that this build holds, and of those that this processor has.
std::vector<std::string_view> built_instruction_sets();
std::vector<std::string_view> available_instruction_sets();

}  // namespace quire
