#include "quire/kv/prefix/idle_lists.h"

#include <bit>
#include <cassert>

namespace quire {

void IdleLists::allow(int priority) {
  Id& head = heads_[place_of(priority)];
  if (head != PrefixNodes::kNone) return;
  head = nodes_.create({});
  nodes_[head].priority = static_cast<std::int8_t>(priority);
  nodes_.make_list(head);
}

PrefixNodes::Id IdleLists::head_for(Id node) noexcept {
  const std::size_t place = place_of(nodes_[node].priority);
  assert(heads_[place] != PrefixNodes::kNone);
  may_have_[place / 64] |= std::uint64_t{1} << place % 64;
  return heads_[place];
}

void IdleLists::add_newest(Id node) noexcept { nodes_.insert_before(head_for(node), node); }
void IdleLists::add_oldest(Id node) noexcept { nodes_.insert_after(head_for(node), node); }

PrefixNodes::Id IdleLists::oldest() noexcept {
  for (std::size_t word = 0; word < may_have_.size(); ++word) {
    while (may_have_[word] != 0) {
      const Id head =
          heads_[word * 64 + static_cast<std::size_t>(std::countr_zero(may_have_[word]))];
      if (nodes_[head].newer != head) return nodes_[head].newer;
      may_have_[word] &= may_have_[word] - 1;
    }
  }
  return PrefixNodes::kNone;
}

}  // namespace quire
