#include "quire/cpu/plan/stretches.h"

#include <algorithm>
#include <cstddef>
#include <tuple>
#include <utility>

namespace quire {
namespace {

// A piece with what it is ordered by.
struct Step {
  std::int64_t chunk;  // of kPieceKeys of the sequence, in which it begins
  std::int64_t seq;
  WorkPiece piece;
};

std::vector<Step> steps_of(const WorkPlan& plan) {
  std::vector<Step> steps;
  for (std::size_t i = 0; i < plan.parts.size(); ++i) {
    const WorkPart& part = plan.parts[i];
    std::int64_t begin = part.keys.begin;
    do {  // one step for a part without keys
      // on a grid tiles begin at multiples of their size
      const std::int64_t from = part.is_on_grid ? begin / kPieceKeys * kPieceKeys : begin;
      const std::int64_t end = std::min(from + kPieceKeys, part.keys.end);
      steps.push_back({begin / kPieceKeys,
                       plan.units[part.unit].seq,
                       {static_cast<std::int64_t>(i), {begin, end}}});
      begin = end;
    } while (begin < part.keys.end);
  }
  std::sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) {
    return std::tie(a.chunk, a.seq, a.piece.part, a.piece.keys.begin) <
           std::tie(b.chunk, b.seq, b.piece.part, b.piece.keys.begin);
  });
  return steps;
}

class StretchPlanner {
 public:
  StretchPlanner(const PagedAttentionArgs& args, std::int64_t most_blocks)
      : args_(args),
        block_size_(sizes_of(args).block_size),
        num_blocks_(sizes_of(args).num_blocks),
        most_blocks_(most_blocks) {
    in_stretch_.assign(static_cast<std::size_t>(num_blocks_), -1);
    plan_.blocks.emplace_back();
  }

  // Steps of one chunk of one sequence.
  void add(const Step* begin, const Step* end) {
    find_blocks(begin, end);
    const auto is_new = [&](std::int32_t block) { return in_stretch_[block] != current(); };
    const auto num_new = std::count_if(found_.begin(), found_.end(), is_new);
    const auto num_blocks = static_cast<std::int64_t>(plan_.blocks.back().size());
    if (num_blocks > 0 && num_blocks + num_new > most_blocks_) {
      close();
      plan_.blocks.emplace_back();
    }
    for (const std::int32_t block : found_) {
      if (!is_new(block)) continue;
      in_stretch_[block] = current();
      plan_.blocks.back().push_back(block);
    }
    for (const Step* step = begin; step != end; ++step) plan_.pieces.push_back(step->piece);
  }

  StretchPlan finish() {
    close();
    return std::move(plan_);
  }

 private:
  std::int32_t current() const { return static_cast<std::int32_t>(plan_.blocks.size()); }

  // Pieces of a part, which follow each other, become one.
  void close() {
    std::vector<WorkPiece>& pieces = plan_.pieces;
    const std::int64_t first = plan_.end.empty() ? 0 : plan_.end.back();
    std::sort(pieces.begin() + first, pieces.end(), [](const WorkPiece& a, const WorkPiece& b) {
      return std::tie(a.part, a.keys.begin) < std::tie(b.part, b.keys.begin);
    });
    auto last = pieces.begin() + first;
    for (auto piece = last; piece != pieces.end(); ++piece) {
      if (piece->part == last->part) {
        last->keys.end = piece->keys.end;
      } else {
        *++last = *piece;
      }
    }
    if (last != pieces.end()) pieces.erase(last + 1, pieces.end());
    plan_.end.push_back(static_cast<std::int64_t>(pieces.size()));
  }

  // The steps' blocks, each once; those that are open are always in memory.
  void find_blocks(const Step* begin, const Step* end) {
    found_.clear();
    for (const Step* step = begin; step != end; ++step) {
      const KeyRange keys = step->piece.keys;
      if (keys.begin >= keys.end) continue;
      const std::int64_t last = (keys.end - 1) / block_size_;
      for (std::int64_t column = keys.begin / block_size_; column <= last; ++column) {
        const std::int64_t block = args_.block_tables.at(step->seq, column);
        // between sink tokens and a window, which are one part on a grid, there may be holes
        if (block >= 0 && block < num_blocks_) found_.push_back(static_cast<std::int32_t>(block));
      }
    }
    std::sort(found_.begin(), found_.end());
    found_.erase(std::unique(found_.begin(), found_.end()), found_.end());
  }

  const PagedAttentionArgs& args_;
  const std::int64_t block_size_, num_blocks_;
  const std::int64_t most_blocks_;
  StretchPlan plan_;
  std::vector<std::int32_t> in_stretch_;  // the last that each block is in, counted from 1
  std::vector<std::int32_t> found_;
};

}  // namespace

StretchPlan plan_stretches(const PagedAttentionArgs& args, const WorkPlan& plan,
                           std::int64_t most_blocks) {
  const std::vector<Step> steps = steps_of(plan);
  StretchPlanner planner(args, most_blocks);
  for (std::size_t begin = 0, end = 0; begin < steps.size(); begin = end) {
    while (end < steps.size() && steps[end].chunk == steps[begin].chunk &&
           steps[end].seq == steps[begin].seq) {
      ++end;
    }
    planner.add(steps.data() + begin, steps.data() + end);
  }
  return planner.finish();
}

}  // namespace quire
