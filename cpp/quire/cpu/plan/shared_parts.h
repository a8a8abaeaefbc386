// Parts of several sequences over the same blocks: the beginning that forks, and tables matched in
// a prefix cache, have in common. One pass over such keys serves the queries of all.
//
//   sequence 0   a b c d | e f g h | i
//   sequence 1   a b c d | e f g h | j k     letters: blocks; parts of four of them
//   sequence 2   a b c d | l m n o           a..d: one pass for three, e..h: one for two
//
// Source of the idea: Juravsky et al., "Hydragen" (arXiv:2402.05099).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quire/cpu/plan/split.h"

namespace quire {

struct SharedParts {
  std::vector<std::int64_t> parts;  // of all groups, indices in WorkPlan::parts
  std::vector<std::int64_t> ends;   // of each group in `parts`, where the next one begins

  std::span<const std::int64_t> group(std::size_t i) const {
    const std::int64_t begin = i == 0 ? 0 : ends[i - 1];
    return std::span(parts).subspan(begin, ends[i] - begin);
  }
};

// Replaces `shared` by groups of two parts or more of `plan`, in order, that may be computed
// together: over the same keys in the same blocks, with the same scales, of the same KV heads and
// as many query tokens, all of which see every key. Only sequences that have their first block in
// common are looked at.
void find_shared_parts(const PagedAttentionArgs& args, const WorkPlan& plan, SharedParts& shared);

}  // namespace quire
