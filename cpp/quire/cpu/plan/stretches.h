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
#include <span>
#include <vector>

#include "quire/cpu/plan/split.h"
#include "quire/ops/attention/key_pager.h"

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

// Goes through a plan as its pager brings keys into memory.
class StretchWalk {
 public:
  StretchWalk(const PagedAttentionArgs& args, const WorkPlan& plan)
      : pager_(*args.pager), plan_(plan_stretches(args, plan, pager_.most_blocks())) {}

  // False where the pager says that all keys are in memory: there is nothing to walk through.
  bool start() { return pager_.start(plan_.blocks); }

  // Calls visit(pieces) for each stretch while it is in memory.
  template <class Visit>
  void run(Visit visit) {
    std::size_t begin = 0;
    for (std::size_t i = 0; i < plan_.end.size(); ++i) {
      const auto end = static_cast<std::size_t>(plan_.end[i]);
      pager_.wait_for(i);
      visit(std::span<const WorkPiece>(plan_.pieces).subspan(begin, end - begin));
      pager_.done_with(i);
      begin = end;
    }
  }

 private:
  KeyPager& pager_;
  const StretchPlan plan_;
};

}  // namespace quire
