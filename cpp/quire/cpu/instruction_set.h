// Every kernel of one instruction set, as a table: what its kernels_<isa>.cpp hands out.
#pragma once

#include "quire/cpu/attention/block_mass.h"
#include "quire/cpu/attention/finish_attention.h"
#include "quire/cpu/attention/fused_attention.h"
#include "quire/cpu/attention/gather_attention.h"
#include "quire/cpu/cache/quantise_row.h"
#include "quire/cpu/cache/seal_rows.h"
#include "quire/cpu/kernels.h"
#include "quire/cpu/probe/arithmetic_loop.h"

namespace quire {

template <class S>
struct InstructionSet {
  static void convert(const RowsCopy& rows, DType from, DType to) {
    AttentionRows<S>::visit(from, [&](auto from_type) {
      AttentionRows<S>::visit(to, [&](auto to_type) {
        for (std::int64_t row = 0; row < rows.count; ++row) {
          convert_row(
              reinterpret_cast<const decltype(from_type)*>(rows.from + row * rows.from_stride),
              reinterpret_cast<decltype(to_type)*>(rows.to + row * rows.to_stride), rows.length);
        }
      });
    });
  }

  static constexpr Kernels kernels(const char* name) {
    return {name,
            S::kWidth,
            &FusedAttention<S>::part,
            &FusedAttention<S>::scratch_floats,
            &FusedAttention<S>::looks_at_scales,
            &FinishAttention<S>::run,
            &GatherAttention<S>::run,
            &GatherAttention<S>::scratch_floats,
            &BlockMass<S>::run,
            &BlockMass<S>::scratch_floats,
            &convert,
            &QuantiseRow<S>::largest,
            &QuantiseRow<S>::run,
            {&SealRows<S>::keys, &SealRows<S>::values, &SealRows<S>::rows},
            &ArithmeticLoop<S>::run};
  }

 private:
  template <class From, class To>
  static void convert_row(const From* from, To* to, std::int64_t length) {
    std::int64_t i = 0;
    for (; i + S::kWidth <= length; i += S::kWidth) S::store(to + i, S::load(from + i));
    if (const int rest = static_cast<int>(length - i); rest > 0) {
      S::store(to + i, S::load(from + i, rest), rest);
    }
  }
};

}  // namespace quire
