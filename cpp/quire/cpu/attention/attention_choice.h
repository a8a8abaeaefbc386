// Which kernels attention runs on, path by path.
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/base/dtype.h"
#include "quire/cpu/attention/attention_kernels.h"

namespace quire {

struct KernelCandidates;

// For caches of one dtype.
struct AttentionChoice {
  // Whether a token's attention has the same bits in any company, where queries and results are of
  // the caches' dtype.
  bool is_chunk_invariant() const { return tiles != nullptr; }
  std::string_view instruction_set() const {
    return (tiles != nullptr ? tiles : direct)->instruction_set;
  }

  const FusedKernels* tiles;  // null where no candidate has them; they come first
  const FusedKernels* codes;  // likewise
  const FusedKernels* direct;
  const FusedKernels* packed;  // takes what the others do not
  const GatherKernels* gather;
  const BlockMassKernels* block_mass;

  // The way of units with so many query rows of one sequence.
  const FusedKernels& fused(const AttentionTask& task, std::int64_t rows) const {
    if (tiles != nullptr && tiles->takes(task, rows)) return *tiles;
    if (codes != nullptr && codes->takes(task, rows)) return *codes;
    return direct->takes(task, rows) ? *direct : *packed;
  }

  // Calls visit(kernels) for each way that a unit may go.
  template <class Visit>
  void for_fused(Visit visit) const {
    for (const FusedKernels* const kernels : {tiles, codes, direct, packed}) {
      if (kernels != nullptr) visit(*kernels);
    }
  }
};

AttentionChoice choose_attention(const KernelCandidates& candidates, DType cache);

}  // namespace quire
