// Tiles that are read from copies, and how the copies are made: numbers in float32 of quantised
// caches (staged_tile.h), or keys joined of two arrays (joined_tile.h). Never both: what is joined
// is neither on grids nor beside open blocks.
#pragma once

#include "quire/cpu/attention/joined_tile.h"
#include "quire/cpu/attention/staged_tile.h"

namespace quire {

template <class S, int kKeys>
struct TileCopies {
  using Joined = JoinedTile<S, kKeys>;
  using Staged = StagedTile<S, kKeys>;

  static bool are_needed(const AttentionTask& task, const AttentionPart& part) {
    return Joined::is_needed(task) || Staged::is_needed(task, part);
  }

  // AttentionTask::staging for tiles of up to kKeys keys.
  static std::int64_t scratch_floats(const AttentionTask& task) {
    return Joined::scratch_floats(task) + Staged::scratch_floats(task);
  }

  // `task`, which outlives it, for those who read the copies.
  static AttentionTask as_read(const AttentionTask& task, float* staging) {
    return Joined::is_needed(task) ? Joined::as_read(task, staging)
                                   : Staged::as_read(task, staging);
  }

  // Copies the rows of one KV head of a tile of `unit`, and finds them.
  static void make(const AttentionTask& task, const AttentionUnit& unit,
                   const KeyTile<S, kKeys>& tile, std::int64_t head, float* staging,
                   KeyTile<S, kKeys>& copies) {
    if (Joined::is_needed(task)) return Joined::make(task, unit, tile, head, staging, copies);
    Staged::make(task, tile, head, staging, copies);
  }
};

}  // namespace quire
