// Everything that one instruction set offers: what its kernels_<isa>.cpp hands out.
#pragma once

#include "quire/cpu/attention/block_mass.h"
#include "quire/cpu/attention/fused_paths.h"
#include "quire/cpu/attention/gather_attention.h"
#include "quire/cpu/cache/convert_rows.h"
#include "quire/cpu/cache/quantise_row.h"
#include "quire/cpu/cache/seal_rows.h"
#include "quire/cpu/kernel_set.h"
#include "quire/cpu/probe/arithmetic_loop.h"

namespace quire {

template <class S>
struct InstructionSet {
  static constexpr KernelSet kernels(const char* name, const GemmKernels* gemm,
                                     const OperatorKernels* operators) {
    return {name, S::kDotsBFloat16, attention(name), cache(name), {name, &ArithmeticLoop<S>::run},
            gemm, operators};
  }

 private:
  static constexpr AttentionKernels attention(const char* name) {
    using Paths = FusedPaths<S>;
    return {Paths::codes(name),
            Paths::direct(name),
            Paths::packed(name),
            Paths::packed_pairs(name),
            {},
            {name, &GatherAttention<S>::run, &GatherAttention<S>::scratch_floats},
            {name, &BlockMass<S>::run, &BlockMass<S>::scratch_floats}};
  }

  static constexpr CacheKernels cache(const char* name) {
    return {name,
            &ConvertRows<S>::run,
            &QuantiseRow<S>::largest,
            &QuantiseRow<S>::run,
            {&SealRows<S>::keys, &SealRows<S>::values, &SealRows<S>::rows}};
  }
};

}  // namespace quire
