// One call of attention as the kernels see it: its task, its units, and the size of their states.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/cpu/attention/attention_choice.h"
#include "quire/cpu/plan/split.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

// So many floats or more, a whole number of cache lines.
constexpr std::int64_t round_to_line(std::int64_t floats) { return (floats + 15) / 16 * 16; }

// Of checked arguments, which outlive it.
class KernelCall {
 public:
  KernelCall(const PagedAttentionArgs& args, const AttentionChoice& kernels);

  // What all units share; and the same with the scales of a sequence, which may be its own.
  const AttentionTask& task() const { return task_; }
  const AttentionTask& task_of(std::int64_t seq) const {
    return task_of_each_.empty() ? task_ : task_of_each_[static_cast<std::size_t>(seq)];
  }

  // `windowed`: rows see the keys of their window alone.
  AttentionUnit unit(const WorkUnit& work, bool windowed) const;

  // Whether some of these keys of a unit are in an open block.
  bool has_open(const WorkUnit& work, const KeyRange& keys) const;

  // Rows of a unit's states.
  std::int64_t rows_of(const WorkUnit& unit) const {
    return unit.num_heads() * padded_rows(unit.num_tokens() * task_.group);
  }

  // AttentionUnit::head_rows, where a KV head has so many.
  static std::int64_t padded_rows(std::int64_t rows) {
    return rows <= kRowStep ? rows : (rows + kRowStep - 1) / kRowStep * kRowStep;
  }

  // The way of fused attention that a unit takes, and all that share its keys.
  const FusedKernels& fused(const WorkUnit& unit) const {
    return kernels_.fused(task_, unit.num_tokens() * task_.group);
  }

  // The most floats that count(kernels) is for any way.
  template <class Count>
  std::int64_t most_of_fused(Count count) const {
    std::int64_t most = 0;
    kernels_.for_fused([&](const FusedKernels& kernels) { most = std::max(most, count(kernels)); });
    return most;
  }

  // A state's memory, in floats: a multiple of a cache line.
  std::int64_t state_floats(const FusedKernels& kernels, std::int64_t rows) const {
    return round_to_line(rows * (padded_values(kernels) + kernels.width + 1));
  }

  StateView state_at(const FusedKernels& kernels, float* memory, std::int64_t rows) const {
    float* const sums = memory + rows * padded_values(kernels);
    return {sums + rows * kernels.width, sums, memory};
  }

  // Memory that the state of a part with so many keys takes while they come in; 0 for few.
  std::int64_t carried_floats(const FusedKernels& kernels, std::int64_t rows,
                              std::int64_t keys) const {
    return carries(kernels, keys) ? round_to_line(2 * rows * (padded_values(kernels) + 2)) : 0;
  }
  static bool carries(const FusedKernels& kernels, std::int64_t keys) {
    return kernels.part_grid != 0 || keys > kSumKeys;
  }

  // FusedKernels::part_grid of the way that units take, which is 0 or the same for all.
  std::int64_t part_grid() const { return kernels_.fused(task_, 1).part_grid; }

  // A finished state's rows from `row` on.
  StateView rows_from(const FusedKernels& kernels, const StateView& state, std::int64_t row) const {
    return {state.maximum + row, state.sums + row * kernels.width,
            state.values + row * padded_values(kernels)};
  }

  // Merges the states of a unit's parts, in the order of keys, and writes its results, a KV head at
  // a time: state_of(kernels, part, head) is the state of that head's rows.
  template <class StateOf>
  void finish(const WorkUnit& work, StateOf state_of) const {
    const FusedKernels& kernels = fused(work);
    AttentionUnit rows = unit(work, work.keys.windowed);
    rows.sink_tokens = work.keys.sink_tokens.end;
    for (std::int64_t head = work.kv_head_begin; head < work.kv_head_end; ++head) {
      StateView states[kMostParts];
      for (std::int64_t p = 0; p < work.num_parts; ++p) {
        states[p] = state_of(kernels, work.first_part + p, head);
      }
      rows.kv_head_begin = head;
      rows.kv_head_end = head + 1;
      kernels.finish(task_, rows, states, work.num_parts);
    }
  }

 private:
  std::int64_t padded_values(const FusedKernels& kernels) const {
    const std::int64_t chunk = 2 * kernels.width;  // a power of two
    return (task_.v_head_dim + chunk - 1) & -chunk;
  }

  const PagedAttentionArgs& args_;
  const AttentionChoice& kernels_;
  std::vector<float> slopes_, sinks_;
  std::vector<const bool*> trees_;  // of each sequence, or empty
  AttentionTask task_{};
  std::vector<AttentionTask> task_of_each_;  // of each sequence, where scales are; or empty
};

// Who is worth calling for so many items, of `cost` bytes read together.
Crew attention_crew(double cost, std::int64_t items, int num_threads);

}  // namespace quire
