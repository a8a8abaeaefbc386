// Every kernel of one instruction set, as a table: what its kernels_<isa>.cpp hands out.
#pragma once

#include "quire/cpu/arithmetic_loop.h"
#include "quire/cpu/finish_attention.h"
#include "quire/cpu/fused_attention.h"
#include "quire/cpu/gather_attention.h"
#include "quire/cpu/kernels.h"

namespace quire {

template <class S>
struct InstructionSet {
  static void convert(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype,
                      std::int64_t count) {
    AttentionRows<S>::visit(from_dtype, [&](auto from_type) {
      const auto* source = reinterpret_cast<const decltype(from_type)*>(from);
      AttentionRows<S>::visit(to_dtype, [&](auto to_type) {
        auto* target = reinterpret_cast<decltype(to_type)*>(to);
        std::int64_t i = 0;
        for (; i + S::kWidth <= count; i += S::kWidth) S::store(target + i, S::load(source + i));
        if (const int rest = static_cast<int>(count - i); rest > 0) {
          S::store(target + i, S::load(source + i, rest), rest);
        }
      });
    });
  }

  static constexpr Kernels kernels(const char* name) {
    return {name,
            S::kWidth,
            &FusedAttention<S>::part,
            &FusedAttention<S>::scratch_floats,
            &FinishAttention<S>::run,
            &GatherAttention<S>::run,
            &GatherAttention<S>::scratch_floats,
            &convert,
            &ArithmeticLoop<S>::run};
  }
};

}  // namespace quire
