#include "quire/cpu/plan/work_items.h"

#include <algorithm>
#include <span>

namespace quire {

class WorkItems::Builder {
 public:
  Builder(const PagedAttentionArgs& args, const WorkPlan& plan, const KernelCall& call,
          WorkItems& work)
      : args_(args), plan_(plan), call_(call), work_(work) {}

  void run() {
    for (std::size_t i = 0; i < work_.shared.ends.size(); ++i) add_shared(work_.shared.group(i));
    for (std::int64_t part = 0; part < static_cast<std::int64_t>(plan_.parts.size()); ++part) {
      if (work_.places[part].item_heads == 0) add_items({&part, 1}, unit_of(part).num_heads());
    }
  }

 private:
  const WorkUnit& unit_of(std::int64_t part) const { return plan_.units[plan_.parts[part].unit]; }

  // Parts of one group, as many at a time as one pass takes.
  void add_shared(std::span<const std::int64_t> parts) {
    const WorkUnit& unit = unit_of(parts[0]);
    const std::int64_t rows = unit.num_tokens() * call_.task().group;
    const std::int64_t heads = unit.num_heads();
    const auto all = static_cast<std::int64_t>(parts.size());
    const bool together = all * rows * heads <= kRowsOfAllHeads;
    const std::int64_t most = kRowsOfOneHead / rows;
    const std::int64_t passes = (all + most - 1) / most;
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      const std::int64_t begin = all * pass / passes;
      const std::int64_t end = all * (pass + 1) / passes;
      add_items(parts.subspan(begin, end - begin), together ? heads : 1);
    }
  }

  // `item_heads` divides the KV heads of a unit.
  void add_items(std::span<const std::int64_t> parts, std::int64_t item_heads) {
    const WorkUnit& unit = unit_of(parts[0]);
    const WorkPart& part = plan_.parts[parts[0]];
    const auto num_members = static_cast<std::int64_t>(parts.size());
    const std::int64_t rows = unit.num_tokens() * call_.task().group;
    WorkItem item{};
    item.first_member = static_cast<std::int64_t>(work_.members.size());
    item.num_members = num_members;
    item.first_token = static_cast<std::int64_t>(work_.tokens.size());
    item.head_rows = KernelCall::padded_rows(num_members * rows);
    item.cost = part.cost * static_cast<double>(passes_of(num_members * rows)) /
                static_cast<double>(passes_of(rows)) * static_cast<double>(item_heads) /
                static_cast<double>(unit.num_heads());
    const auto first_item = static_cast<std::int64_t>(work_.items.size());
    for (std::int64_t member = 0; member < num_members; ++member) {
      const std::int64_t index = parts[member];
      work_.members.push_back(index);
      work_.places[index] = {first_item, item_heads, member * rows};
      work_.items_left[plan_.parts[index].unit] +=
          static_cast<std::int32_t>(unit.num_heads() / item_heads);
      if (num_members > 1) add_tokens(unit_of(index));
    }
    work_.most_rows = std::max(work_.most_rows, item_heads * item.head_rows);
    const FusedKernels& kernels = call_.fused(unit);
    for (std::int64_t head = unit.kv_head_begin; head < unit.kv_head_end; head += item_heads) {
      item.kv_head_begin = head;
      item.kv_head_end = head + item_heads;
      item.state_begin = WorkItem::kNoState;
      if (unit.num_parts > 1) {
        item.state_begin = work_.state_floats;
        work_.state_floats += call_.state_floats(kernels, item_heads * item.head_rows);
      }
      work_.cost += item.cost;
      work_.items.push_back(item);
    }
  }

  void add_tokens(const WorkUnit& unit) {
    const QueryRows rows = query_rows(args_, unit.seq);
    for (std::int64_t token = unit.token_begin; token < unit.token_end; ++token) {
      work_.tokens.push_back({token, rows.key(token - rows.begin)});
    }
  }

  const PagedAttentionArgs& args_;
  const WorkPlan& plan_;
  const KernelCall& call_;
  WorkItems& work_;
};

void WorkItems::assign(const PagedAttentionArgs& args, const WorkPlan& plan,
                       const KernelCall& call) {
  items.clear();
  members.clear();
  tokens.clear();
  places.assign(plan.parts.size(), PartPlace{});
  items_left.assign(plan.units.size(), 0);
  cost = 0;
  state_floats = 0;
  most_rows = 0;
  find_shared_parts(args, plan, shared);
  Builder(args, plan, call, *this).run();
}

}  // namespace quire
