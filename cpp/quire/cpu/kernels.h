// What the kernels offer: function pointers that take plain data (quire/task), so that no code
// compiled for one instruction set can be called but through its table.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/row_sealing.h"
#include "quire/task/attention_state.h"
#include "quire/task/attention_task.h"
#include "quire/task/cache_task.h"

namespace quire {

struct Kernels {
  const char* name;
  int width;  // floats of a vector; rows are padded to a multiple of two

  // The state of a part. `scratch`: fused_scratch(task, rows) floats. `upcoming`: what the caller
  // computes next, whose first keys are asked for in advance, or null.
  void (*fused_part)(const AttentionTask& task, const AttentionPart& part,
                     const AttentionPart* upcoming, float* scratch, StateView state);
  std::int64_t (*fused_scratch)(const AttentionTask& task, std::int64_t rows);
  // Whether fused_part looks at the dynamic scales of a part, or the grids.
  bool (*looks_at_scales)(const AttentionTask& task, const AttentionPart& part);
  // Merges states [num_parts <= kMostParts] in order, adds the sinks, divides, and writes out and
  // lse.
  void (*finish)(const AttentionTask& task, const AttentionUnit& unit, const StateView* states,
                 std::int64_t num_parts);

  // Attention of `unit`, which has one KV head, over its first sink_tokens keys and keys
  // [key_begin, key_end) copied together, written to out and lse. `scratch`: gather_scratch(task,
  // sink_tokens + key_end - key_begin) floats.
  void (*gather)(const AttentionTask& task, const AttentionUnit& unit, std::int64_t sink_tokens,
                 std::int64_t key_begin, std::int64_t key_end, float* scratch);
  std::int64_t (*gather_scratch)(const AttentionTask& task, std::int64_t num_keys);

  // Adds the weights 2^(score - maximum) of a part's keys to the columns of `mass`, for the rows of
  // its unit, which has one KV head; where a maximum grows, what is there shrinks. No column may be
  // another thread's. `scratch`: block_mass_scratch(task, rows) floats.
  void (*block_mass)(const AttentionTask& task, const AttentionPart& part, float* scratch,
                     const BlockMassView& mass);
  std::int64_t (*block_mass_scratch)(const AttentionTask& task, std::int64_t rows);

  // Rows of one dtype as rows of another, rounded to nearest even; both plain floats.
  void (*convert)(const RowsCopy& rows, DType from, DType to);

  // The largest magnitude of `count` plain floats; NaN where one of them is not finite.
  float (*largest)(const std::byte* from, DType dtype, std::int64_t count);

  // Elements divided by `scale`, cut off at largest_number(to, scale) and rounded to nearest even,
  // as numbers of a quantised dtype. All are finite, and the scale positive.
  void (*quantise)(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype,
                   std::int64_t count, float scale);

  // Rows as those of sealed blocks.
  SealFunctions seal;

  // `rounds` of multiply-adds of registers, in float32 or of pairs of bfloat16: returns the FLOPs
  // done, 0 where there is no such instruction, and their sum. For arithmetic_peak.h.
  double (*arithmetic)(DType dtype, std::int64_t rounds, float* total);
};

}  // namespace quire
