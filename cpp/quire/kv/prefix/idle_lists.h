// Which of the nodes that may go goes first: a list for each priority, from the node used least
// recently to the one used last. The lowest priority goes first.
#pragma once

#include <array>
#include <cstdint>

#include "quire/kv/prefix/prefix_nodes.h"

namespace quire {

// For one thread at a time. Each step costs O(1).
class IdleLists {
 public:
  using Id = PrefixNodes::Id;

  explicit IdleLists(PrefixNodes& nodes) : nodes_(nodes) {}
  IdleLists(const IdleLists&) = delete;
  IdleLists& operator=(const IdleLists&) = delete;

  // Makes a list, once before nodes of this priority are added. Throws std::bad_alloc.
  void allow(int priority);

  // A node that is in no list, to the list of its own priority. Any list lets go of it by
  // PrefixNodes::unlist.
  void add_newest(Id node) noexcept;
  void add_oldest(Id node) noexcept;

  // The node that goes first; kNone where there is none.
  Id oldest() noexcept;

  // Calls visit(head) for each list, that of the highest priority first.
  template <class Visit>
  void for_heads(Visit visit) const {
    for (std::size_t place = heads_.size(); place-- > 0;) {
      if (heads_[place] != PrefixNodes::kNone) visit(heads_[place]);
    }
  }

 private:
  static constexpr std::size_t kNumLists =
      PrefixNodes::kMostPriority - PrefixNodes::kLeastPriority + 1;

  static std::size_t place_of(int priority) {
    return static_cast<std::size_t>(priority - PrefixNodes::kLeastPriority);
  }
  Id head_for(Id node) noexcept;  // which is about to have it

  PrefixNodes& nodes_;
  std::array<Id, kNumLists> heads_{};                            // kNone: no such list
  std::array<std::uint64_t, (kNumLists + 63) / 64> may_have_{};  // nodes: a bit for each list
};

}  // namespace quire
