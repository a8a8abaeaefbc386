#include "quire/kv/ledger/block_events.h"

#include <new>

namespace quire {

void BlockEvents::add(BlockEvent::Kind kind, std::int32_t block) noexcept {
  try {
    if (events_.empty() || events_.back().kind != kind) events_.push_back({kind, {}});
    events_.back().blocks.push_back(block);
    if (kind == BlockEvent::Kind::freed) offloaded_.erase(block);
  } catch (const std::bad_alloc&) {
    return;  // the event is lost
  }
}

void BlockEvents::add_copy(std::int32_t from, std::int32_t to) noexcept {
  try {
    events_.push_back({BlockEvent::Kind::copied, {from, to}});
  } catch (const std::bad_alloc&) {
    return;  // the event is lost
  }
}

void BlockEvents::add_move(BlockEvent::Kind kind, std::int32_t block) noexcept {
  try {
    const bool leaves = kind == BlockEvent::Kind::offloaded;
    if (leaves ? offloaded_.insert(block).second : offloaded_.erase(block) > 0) add(kind, block);
  } catch (const std::bad_alloc&) {
    return;  // the event is lost
  }
}

}  // namespace quire
