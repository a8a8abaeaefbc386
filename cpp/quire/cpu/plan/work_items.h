// What workers take: a part of one unit, or parts of several sequences over the same keys, which
// one pass serves (cpu/plan/shared_parts.h).
#pragma once

#include <cstdint>
#include <vector>

#include "quire/cpu/attention/kernel_call.h"
#include "quire/cpu/plan/shared_parts.h"
#include "quire/cpu/plan/split.h"

namespace quire {

struct WorkItem {
  std::int64_t first_member;  // in WorkItems::members
  std::int64_t num_members;
  std::int64_t kv_head_begin, kv_head_end;
  std::int64_t first_token;  // of all members, in WorkItems::tokens; of one member there are none
  std::int64_t head_rows;    // of the item's state
  std::int64_t state_begin;  // in floats, or kNoState where the part is its unit's only one
  double cost;

  static constexpr std::int64_t kNoState = -1;
};

// Where the rows of a part's unit are: row 0 of KV head h in the state of item
// first_item + (h - the unit's first) / item_heads begins at `row` of that head's rows.
struct PartPlace {
  std::int64_t first_item;
  std::int64_t item_heads;
  std::int64_t row;
};

struct WorkItems {
  std::vector<WorkItem> items;
  std::vector<std::int64_t> members;  // indices of parts
  std::vector<PartPlace> places;      // of each part
  std::vector<QueryToken> tokens;
  std::vector<std::int32_t> items_left;  // of each unit: those that its results wait for
  SharedParts shared;
  double cost;
  std::int64_t state_floats;  // of all states
  std::int64_t most_rows;     // of an item, all of its heads together

  // Replaces all of it by the work of `plan`.
  void assign(const PagedAttentionArgs& args, const WorkPlan& plan, const KernelCall& call);

 private:
  class Builder;
};

}  // namespace quire
