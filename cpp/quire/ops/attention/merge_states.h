// Joining attention over disjoint sets of keys.
#pragma once

#include "quire/base/array_view.h"

namespace quire {

// Partial results over disjoint keys, and their union:
//
//   lse = log(sum_i exp(lses[i]))        out = sum_i exp(lses[i] - lse) * outs[i]
//
// (0, -inf) is the identity. Sums run in float64 in the order of i.
// Source: Ye et al., "Cascade Inference", and "FlashInfer" (arXiv:2501.01005), section 2.2.
struct MergeStatesArgs {
  ArrayView outs;  // [n, T, H, Dv], any DType
  ArrayView lses;  // [n, T, H], float32
  ArrayView out;   // [T, H, Dv], written
  float* lse;      // [T, H] contiguous, written
};

// Throws ValueError or TypeError before anything is written.
void merge_states(const MergeStatesArgs& args);

}  // namespace quire
