#include "quire/cpu/plan/attention_plan.h"

#include <algorithm>
#include <numeric>

#include "quire/cpu/attention/kernel_call.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {

PlanKind plan_kind(const PagedAttentionArgs& args, const AttentionChoice& kernels) {
  PlanKind kind{&kernels,
                args.q.shape[1],
                args.sliding_window,
                args.window_sides,
                args.num_sink_tokens,
                args.causal,
                std::nullopt,
                args.tree_mask.has_value(),
                tree_ends(args),
                sequences_by_scales(args)};
  if (args.causal_of_each) {
    kind.causal_of_each.emplace(args.causal_of_each->begin(), args.causal_of_each->end());
  }
  return kind;
}

void plan_attention(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                    AttentionPlan& plan) {
  const KernelCall call(args, kernels);
  plan_work(args, plan.cut, call.part_grid());
  plan.work.assign(args, plan.cut, call);
  plan.order.clear();
}

const std::vector<std::int64_t>& AttentionPlan::costly_first() {
  const std::vector<WorkItem>& items = work.items;
  if (order.size() == items.size()) return order;
  order.resize(items.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return items[a].cost != items[b].cost ? items[a].cost > items[b].cost : a < b;
  });
  return order;
}

}  // namespace quire
