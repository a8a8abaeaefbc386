#include "quire/cpu/plan/shared_parts.h"

#include <algorithm>
#include <span>
#include <tuple>

#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

// Of more query rows of a KV head, in one unit, arithmetic is the bound, and not the reading of
// keys.
constexpr std::int64_t kMostRowsOfUnit = 64;

struct Candidate {
  std::int64_t first_block;
  std::int64_t unit;
};

struct SharedPart {
  KeyRange keys;
  std::int64_t tokens, kv_head_begin, kv_head_end;
  std::int64_t scales;  // the first sequence that has those of this one, or 0
  std::int64_t seq;
  std::int64_t part;

  // Equal where parts may be computed together, but for their blocks.
  auto shape() const {
    return std::tie(keys.begin, keys.end, tokens, kv_head_begin, kv_head_end, scales);
  }
};

// Calls visit(begin, end) for the longest runs, of two or more, of equal neighbours.
template <class T, class Equal, class Visit>
void for_runs(T* begin, T* end, Equal equal, Visit visit) {
  while (begin != end) {
    T* next = begin + 1;
    while (next != end && equal(*begin, *next)) ++next;
    if (next - begin > 1) visit(begin, next);
    begin = next;
  }
}

class Finder {
 public:
  Finder(const PagedAttentionArgs& args, const WorkPlan& plan, SharedParts& shared)
      : args_(args),
        plan_(plan),
        shared_(shared),
        sizes_(sizes_of(args)),
        by_scales_(sequences_by_scales(args)) {}

  void run() {
    std::vector<Candidate> candidates;
    for (const WorkUnit& unit : plan_.units) {
      if (!may_share(unit)) continue;
      candidates.push_back({block(unit.seq, 0), &unit - plan_.units.data()});
    }
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
      return std::tie(a.first_block, a.unit) < std::tie(b.first_block, b.unit);
    });
    for_runs(
        candidates.data(), candidates.data() + candidates.size(),
        [](const Candidate& a, const Candidate& b) { return a.first_block == b.first_block; },
        [&](const Candidate* begin, const Candidate* end) { add_family({begin, end}); });
  }

 private:
  // A unit of one part is not worth it: that is short.
  bool may_share(const WorkUnit& unit) const {
    return unit.num_parts > 1 && unit.num_tokens() * sizes_.group <= kMostRowsOfUnit &&
           stands_in_order(unit.seq);
  }

  // Whether key j stands at position j: they grow from 0 or more.
  bool stands_in_order(std::int64_t seq) const {
    const std::int64_t last = args_.seq_lens.at(seq) - 1;
    return !args_.key_positions || args_.key_positions->at(seq, last) == last;
  }

  // Units whose first block is the same.
  void add_family(std::span<const Candidate> family) {
    parts_.clear();
    for (const Candidate& candidate : family) add_parts(plan_.units[candidate.unit]);
    std::sort(parts_.begin(), parts_.end(), [&](const SharedPart& a, const SharedPart& b) {
      if (a.shape() != b.shape()) return a.shape() < b.shape();
      const std::int64_t difference = compare_blocks(a, b);
      return difference != 0 ? difference < 0 : a.part < b.part;
    });
    for_runs(
        parts_.data(), parts_.data() + parts_.size(),
        [&](const SharedPart& a, const SharedPart& b) {
          return a.shape() == b.shape() && compare_blocks(a, b) == 0;
        },
        [&](const SharedPart* begin, const SharedPart* end) {
          for (const SharedPart* i = begin; i != end; ++i) shared_.parts.push_back(i->part);
          shared_.ends.push_back(static_cast<std::int64_t>(shared_.parts.size()));
        });
  }

  void add_parts(const WorkUnit& unit) {
    const QueryRows rows = query_rows(args_, unit.seq);
    const std::int64_t seen_by_all = args_.tree_mask ? rows.key(0)
                                     : is_causal(args_, unit.seq)
                                         ? rows.key(unit.token_begin - rows.begin) + 1
                                         : rows.seq_len;
    for (std::int64_t i = unit.first_part; i < unit.first_part + unit.num_parts; ++i) {
      const WorkPart& part = plan_.parts[i];
      if (part.windowed || part.keys.begin >= part.keys.end || part.keys.end > seen_by_all)
        continue;
      parts_.push_back({part.keys, unit.num_tokens(), unit.kv_head_begin, unit.kv_head_end,
                        by_scales_.empty() ? 0 : by_scales_[unit.seq], unit.seq, i});
    }
  }

  // < 0, 0 or > 0, for parts of the same keys.
  std::int64_t compare_blocks(const SharedPart& a, const SharedPart& b) const {
    const std::int64_t last = (a.keys.end - 1) / sizes_.block_size;
    for (std::int64_t column = a.keys.begin / sizes_.block_size; column <= last; ++column) {
      const std::int64_t difference = block(a.seq, column) - block(b.seq, column);
      if (difference != 0) return difference;
    }
    return 0;
  }

  std::int64_t block(std::int64_t seq, std::int64_t column) const {
    return args_.block_tables.at(seq, column);
  }

  const PagedAttentionArgs& args_;
  const WorkPlan& plan_;
  SharedParts& shared_;
  const PagedAttentionSizes sizes_;
  const std::vector<std::int64_t> by_scales_;
  std::vector<SharedPart> parts_;  // of one family
};

}  // namespace

void find_shared_parts(const PagedAttentionArgs& args, const WorkPlan& plan, SharedParts& shared) {
  shared.parts.clear();
  shared.ends.clear();
  if (args.seq_lens.shape[0] < 2) return;
  Finder(args, plan, shared).run();
}

}  // namespace quire
