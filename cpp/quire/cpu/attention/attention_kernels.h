// What an instruction set offers of attention: a table for each path, so that one path may run on
// another set than its neighbours.
#pragma once

#include <cstdint>

#include "quire/task/attention_state.h"
#include "quire/task/attention_task.h"

namespace quire {

// A path of fused attention. All parts of a unit take the same one, which is chosen by the rows of
// its own sequence: states are in the order and the width of the kernels that made them.
struct FusedKernels {
  const char* instruction_set;  // null: this path is not offered, and nor is the rest
  int width;                    // floats of a vector; rows are padded to a multiple of two

  // Whether units with so many query rows of one sequence, tokens x group, are to go this way.
  bool (*takes)(const AttentionTask& task, std::int64_t rows);
  // The state of a part. `scratch`: scratch_floats(task, rows of the unit's states) floats.
  // `upcoming`: what the caller computes next, whose first keys are asked for in advance, or null.
  void (*part)(const AttentionTask& task, const AttentionPart& part, const AttentionPart* upcoming,
               float* scratch, StateView state);
  std::int64_t (*scratch_floats)(const AttentionTask& task, std::int64_t rows);
  // Whether `part` looks at the dynamic scales of a part, or the grids.
  bool (*looks_at_scales)(const AttentionTask& task, const AttentionPart& part);
  // Merges states [num_parts <= kMostParts] in order, adds the sinks, divides, and writes out and
  // lse.
  void (*finish)(const AttentionTask& task, const AttentionUnit& unit, const StateView* states,
                 std::int64_t num_parts);

  // Not 0: parts end at multiples of so many keys of the sequence, whatever the unit's rows see of
  // them, and a part of several such cells carries them over (StateView::carried) one by one, so
  // that a row's bits depend on the keys that it sees alone. Then `part` knows the unit's sink
  // tokens, and goes around the keys between them and the window.
  std::int64_t part_grid = 0;
};

struct GatherKernels {
  const char* instruction_set;

  // Attention of `unit`, which has one KV head, over its sink tokens and keys [key_begin, key_end)
  // copied together, written to out and lse. `scratch`: scratch_floats(task, unit.sink_tokens +
  // key_end - key_begin) floats.
  void (*run)(const AttentionTask& task, const AttentionUnit& unit, std::int64_t key_begin,
              std::int64_t key_end, float* scratch);
  std::int64_t (*scratch_floats)(const AttentionTask& task, std::int64_t num_keys);
};

struct BlockMassKernels {
  const char* instruction_set;

  // Adds the weights 2^(score - maximum) of a part's keys to the columns of `mass`, for the rows of
  // its unit, which has one KV head; where a maximum grows, what is there shrinks. No column may be
  // another thread's. `scratch`: scratch_floats(task, rows) floats.
  void (*run)(const AttentionTask& task, const AttentionPart& part, float* scratch,
              const BlockMassView& mass);
  std::int64_t (*scratch_floats)(const AttentionTask& task, std::int64_t rows);
};

struct AttentionKernels {
  FusedKernels codes;         // few rows of int4 caches, whose codes are multiplied as they are
  FusedKernels direct;        // few rows, keys read where they lie
  FusedKernels packed;        // any number, keys copied together first
  FusedKernels packed_pairs;  // the same, numbers of 8 bits multiplied as pairs of bfloat16
  FusedKernels tiles;         // any number of rows, where all is bfloat16 (tiles/tile_path.h)
  GatherKernels gather;
  BlockMassKernels block_mass;
};

}  // namespace quire
