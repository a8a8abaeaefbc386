// Attention in tiles as a path of fused attention.
//
// It takes units of any number of rows, so that there is one way, with the same sums, for a token
// that is decoded, verified with others or part of a prompt. What it takes depends on the call's
// dtypes alone.
#pragma once

#include "quire/cpu/attention/attention_kernels.h"
#include "quire/cpu/attention/tiles/lane_arithmetic.h"
#include "quire/cpu/attention/tiles/tile_arithmetic.h"
#include "quire/cpu/attention/tiles/tile_attention.h"

namespace quire {

// kMostInLanes: query rows of a KV head that vectors take in less time than tiles.
template <class S, std::int64_t kMostInLanes = 2>
struct TilePath {
  // Weights are rounded to bfloat16, which is less than the rounding of results, where those are
  // bfloat16s as well.
  static bool takes(const AttentionTask& task, std::int64_t) {
    return task.q.dtype == DType::bfloat16 && task.k.dtype == DType::bfloat16 &&
           task.v.dtype == DType::bfloat16 && task.out.dtype == DType::bfloat16;
  }

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    if (!takes(task, rows)) return 0;
    return TileRooms<S>::scratch_floats(task, rows) + Joined::scratch_floats(task);
  }

  static bool looks_at_scales(const AttentionTask&, const AttentionPart&) { return false; }

  static void part(const AttentionTask& task, const AttentionPart& part,
                   const AttentionPart* upcoming, float* scratch, StateView state) {
    if (!Joined::is_needed(task)) return attend(task, part, upcoming, scratch, state);
    const std::int64_t rows =
        part.unit.head_rows * (part.unit.kv_head_end - part.unit.kv_head_begin);
    float* const staging = scratch + TileRooms<S>::scratch_floats(task, rows);
    attend(Joined::as_read(task, staging), part, upcoming, scratch, state);
  }

  static constexpr FusedKernels kernels(const char* name) {
    return {name,
            TileStates<S>::kWidth,
            &takes,
            &part,
            &scratch_floats,
            &looks_at_scales,
            &TileStates<S>::finish,
            TileGrid::kCell};
  }

 private:
  using Joined = JoinedTile<S, TileGrid::kKeys>;

  static void attend(const AttentionTask& task, const AttentionPart& part,
                     const AttentionPart* upcoming, float* scratch, const StateView& state) {
    if (part.unit.num_tokens * task.group <= kMostInLanes) {
      return TileAttention<S, LaneArithmetic<S>>(task, part.unit, scratch, state)
          .run(part, upcoming);
    }
    TileAttention<S, TileArithmetic<S>>(task, part.unit, scratch, state).run(part, upcoming);
  }
};

}  // namespace quire
