// Joining attention over disjoint sets of keys.
#pragma once

#include "quire/base/array_view.h"

namespace quire {

// Partial results over disjoint keys, and their union:
//
//   lse = log(sum_i exp(lses[i]))        out = sum_i exp(lses[i] - lse) * outs[i]
//
// (0, -inf) is the identity. A part whose lse is infinite, of either sign, has seen no key: its
// values are not read. -inf is what Quire gives a row without keys, and FlashAttention-3 and
// FlashInfer too; FlashAttention-2 gives +inf, which vLLM's merge_attn_states takes the same way.
// Sums run in float64 in the order of i.
// Source: Ye et al., "Cascade Inference", and "FlashInfer" (arXiv:2501.01005), section 2.2.
struct MergeStatesArgs {
  ArrayView outs;  // [n, ..., Dv], float32, float16 or bfloat16
  ArrayView lses;  // [n, ...], float32, any strides
  ArrayView out;   // [..., Dv], of any of the three, written
  ArrayView lse;   // [...], float32, any strides, written
};

// Throws ValueError or TypeError before anything is written.
void merge_states(const MergeStatesArgs& args);

}  // namespace quire
