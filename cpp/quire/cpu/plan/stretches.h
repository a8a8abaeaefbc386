// The order of work for keys that come into memory a stretch at a time (key_pager.h).
//
//   stretch = pieces: of one part's keys each, at most one of a part
//
// Stretches follow the tables: the first keys of all sequences come first, so that blocks that
// sequences share, and those that many query rows need, are brought in once. A part's pieces meet
// where its tiles do, so that going through them one after the other does what going through the
// part does.
#pragma once

#include <cstdint>
#include <vector>

#include "quire/cpu/plan/split.h"

namespace quire {

// Some keys of a part.
struct WorkPiece {
  std::int64_t part;
  KeyRange keys;
};

struct StretchPlan {
  std::vector<WorkPiece> pieces;                  // of the stretches, one after the other
  std::vector<std::int64_t> end;                  // of each stretch's pieces
  std::vector<std::vector<std::int32_t>> blocks;  // of each stretch; none that is open
};

// A piece is made of so many keys, a multiple of every kernel's tile; the last of a part has fewer.
inline constexpr std::int64_t kPieceKeys = 128;

// `most_blocks`: of a stretch; at least those of 2 * kPieceKeys - 1 keys, wherever they begin.
StretchPlan plan_stretches(const PagedAttentionArgs& args, const WorkPlan& plan,
                           std::int64_t most_blocks);

}  // namespace quire
