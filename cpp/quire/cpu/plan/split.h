// Who does which keys: one call's work cut into units and parts.
//
//   sequence = units: ranges of query tokens x ranges of KV heads
//   unit     = parts: ranges of keys, whose states are merged in their order; first those of the
//              sink tokens that lie apart from the window
//
// The cut of a sequence depends on its own lengths and tree and on the shapes of the call alone,
// never on the rest of the batch or the number of threads: so neither do the bits of its result.
#pragma once

#include <cstdint>
#include <vector>

#include "quire/ops/attention/visible_keys.h"

namespace quire {

struct WorkUnit {
  std::int64_t seq;
  std::int64_t token_begin, token_end;  // rows of q
  std::int64_t kv_head_begin, kv_head_end;
  VisibleKeys keys;             // that some row of the unit sees
  std::int64_t part_keys = 0;   // keys of each part; the last of a range may have fewer
  std::int64_t first_part = 0;  // index of the first in WorkPlan::parts
  std::int64_t num_parts = 0;   // >= 1; a unit without keys has one part without keys

  std::int64_t num_tokens() const { return token_end - token_begin; }
  std::int64_t num_heads() const { return kv_head_end - kv_head_begin; }  // KV heads
};

struct WorkPart {
  std::int64_t unit;
  KeyRange keys;  // of the unit's sink tokens or of its window; on a grid of both, from the first
  bool windowed;  // whether rows see those of their window alone
  double cost;    // bytes of keys and values read, times the passes of query rows over them
  bool is_on_grid = false;
};

struct WorkPlan {
  std::vector<WorkUnit> units;
  std::vector<WorkPart> parts;
  double cost = 0;  // of all parts
  std::int64_t most_part_keys = 0;
};

inline constexpr std::int64_t kMostKeyParts = 64;  // of one unit

// On a grid: parts of all units of a sequence, if each of them is one cell. Of more, each unit is
// one part, as it keeps nothing of a cell that is done.
inline constexpr std::int64_t kMostGridParts = 256;

// Query rows (tokens x heads) that are computed together with all KV heads: as many as leave their
// queries and states in a core's second-level cache. Then a block is read in one go, all of its
// heads together.
inline constexpr std::int64_t kRowsOfAllHeads = 256;

// Query rows of one KV head: enough to make a tile's keys worth their loading.
inline constexpr std::int64_t kRowsOfOneHead = 256;

// Query rows that go through a tile of keys in the time that it takes to arrive.
inline constexpr std::int64_t kRowsPerPass = 4;
constexpr std::int64_t passes_of(std::int64_t rows) {
  return (rows + kRowsPerPass - 1) / kRowsPerPass;
}

// Where the keys end that the rows of each unit's tokens see by the trees of checked arguments, of
// the units of one KV head after the other; none where there are no trees. All that a plan depends
// on of them.
std::vector<std::int64_t> tree_ends(const PagedAttentionArgs& args);

// Replaces `plan` by the work of checked arguments. `part_grid`: FusedKernels::part_grid. Not 0,
// parts lie on that grid: their ends then depend on no row, and bits on no cut.
void plan_work(const PagedAttentionArgs& args, WorkPlan& plan, std::int64_t part_grid = 0);

}  // namespace quire
