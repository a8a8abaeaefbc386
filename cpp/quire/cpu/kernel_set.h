// What an instruction set offers, a table for each operator: function pointers that take plain data
// (quire/task), so that no code compiled for one set can be called but through its tables.
#pragma once

#include "quire/cpu/attention/attention_kernels.h"
#include "quire/cpu/cache/cache_kernels.h"
#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/cpu/operators/operator_kernels.h"
#include "quire/cpu/probe/probe_kernels.h"

namespace quire {

struct KernelSet {
  const char* name;
  bool multiplies_pairs;  // of bfloat16, where caches are of that
  AttentionKernels attention;
  CacheKernels cache;
  ProbeKernels probe;
  // Compiled in files of their own; null where the next poorer set's serve.
  const GemmKernels* gemm;
  const OperatorKernels* operators;
};

}  // namespace quire
