// Which kernels attention runs on, path by path.
#pragma once

#include <cstdint>

#include "quire/base/dtype.h"
#include "quire/cpu/attention/attention_kernels.h"

namespace quire {

struct KernelCandidates;

// For caches of one dtype.
struct AttentionChoice {
  const FusedKernels* codes;  // null where no candidate has them
  const FusedKernels* direct;
  const FusedKernels* packed;  // takes what the others do not
  const GatherKernels* gather;
  const BlockMassKernels* block_mass;

  // The way of units with so many query rows of one sequence.
  const FusedKernels& fused(const AttentionTask& task, std::int64_t rows) const {
    if (codes != nullptr && codes->takes(task, rows)) return *codes;
    return direct->takes(task, rows) ? *direct : *packed;
  }

  // Calls visit(kernels) for each way that a unit may go.
  template <class Visit>
  void for_fused(Visit visit) const {
    for (const FusedKernels* const kernels : {codes, direct, packed}) {
      if (kernels != nullptr) visit(*kernels);
    }
  }
};

AttentionChoice choose_attention(const KernelCandidates& candidates, DType cache);

}  // namespace quire
