// How one call of fused attention is cut and dealt to workers: a value, so that calls which have
// the same lengths and shapes, as the layers of a step have, make it once.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "quire/cpu/attention/attention_choice.h"
#include "quire/cpu/plan/split.h"
#include "quire/cpu/plan/work_items.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

// What a plan depends on, of calls over the same tables, lengths and caches.
struct PlanKind {
  const AttentionChoice* kernels;
  std::int64_t num_heads;
  std::optional<std::int64_t> sliding_window;
  std::optional<WindowSides> window_sides;
  std::int64_t num_sink_tokens;
  bool causal;
  std::optional<std::vector<bool>> causal_of_each;
  bool has_trees;
  std::vector<std::int64_t> tree_ends;  // what of them decides how work is cut
  // Which sequences have the same scales (cache_scales.h), and so may share what is read.
  std::vector<std::int64_t> sequences_by_scales;

  bool operator==(const PlanKind&) const = default;
};
PlanKind plan_kind(const PagedAttentionArgs& args, const AttentionChoice& kernels);

struct AttentionPlan {
  WorkPlan cut;
  WorkItems work;
  std::vector<std::int64_t> order;  // of items, the most costly first: empty until it is asked for

  // Makes the order, where threads take items.
  const std::vector<std::int64_t>& costly_first();
};

// Replaces `plan` by that of checked arguments.
void plan_attention(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                    AttentionPlan& plan);

}  // namespace quire
