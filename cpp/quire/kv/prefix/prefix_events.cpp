#include "quire/kv/prefix/prefix_events.h"

#include "quire/kv/ledger/block_ledger.h"
#include "quire/kv/prefix/prefix_snapshot.h"
#include "quire/kv/prefix/radix_tree.h"

namespace quire {

// A listener may fork: the child, which has the parent's events, tells nobody of them again.
void PrefixEvents::tell(const PoolHome& home) noexcept {
  for (const PrefixEvent& event : told_) {
    if (home.is_here()) hears_->hear(event);
  }
  told_.clear();
  hears_.reset();
}

void RadixTree::tell(PrefixEvent::Kind kind, Id node) noexcept {
  if (events_ == nullptr) return;
  events_->add([&] {
    const PrefixNodes::Node& told = nodes_[node];
    PrefixEvent event;
    event.kind = kind;
    event.node = node;
    if (is_prefix(told.parent)) {
      event.parent = told.parent;
    } else {
      event.space = name_of(nodes_[told.parent]);
    }
    event.block = is_hole(node) ? kHole : told.block;
    event.token_ids.reserve(static_cast<std::size_t>(told.size));
    for (std::int64_t i = 0; i < told.size; ++i) event.token_ids.push_back(told.id(i));
    return event;
  });
}

}  // namespace quire
