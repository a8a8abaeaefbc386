// The speed of arithmetic, as the kernels use it.
#pragma once

#include "quire/cpu/probe/probe_kernels.h"

namespace quire {

// FLOP/s of multiply-adds that wait neither for memory nor for each other, with the instructions of
// `kernels`, on `num_threads` threads for some milliseconds. `dtype`: float32, or bfloat16 for dot
// products of bfloat16 pairs added to float32. A multiply-add counts as two. This is the ceiling of
// an attention kernel that memory does not bound.
//
// Throws ValueError where the instruction set has no arithmetic of `dtype`; its kernels then
// compute in float32.
double arithmetic_peak(DType dtype, int num_threads, const ProbeKernels& kernels);

}  // namespace quire
