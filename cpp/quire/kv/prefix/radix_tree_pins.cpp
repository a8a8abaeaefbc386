// Which paths of a tree must stay.
#include <cassert>
#include <utility>

#include "quire/kv/prefix/radix_tree.h"

namespace quire {

RadixTree::Pins RadixTree::new_pin(TokenIds space, TokenIds ids) {
  std::vector<std::int64_t> key(space.begin(), space.end());
  key.insert(key.end(), ids.begin(), ids.end());
  Pins pin;
  pin.emplace(std::move(key), PrefixNodes::kNone);
  return pin;
}

std::int64_t RadixTree::pin(TokenIds space, TokenIds ids, Pins* pin) noexcept {
  std::int64_t tokens = 0;
  Id end = PrefixNodes::kNone;
  walk(space, ids, [&](Id node, std::int64_t rows) {
    if (is_hole(node)) return false;
    tokens += rows;
    end = node;
    return true;
  });
  if (tokens == 0) return 0;
  for (Id at = end; is_block(at); at = nodes_[at].parent) {
    if (nodes_[at].pins++ == 0) ledger_.pin(nodes_[at].block);
  }
  pin->begin()->second = end;
  pins_.insert(pin->extract(pin->begin()));
  assert(holds([&] { check_changed(end); }));
  return tokens;
}

bool RadixTree::unpin(const Pins& pin) noexcept {
  const auto [first, last] = pins_.equal_range(pin.begin()->first);
  if (first == last) return false;
  const auto latest = std::prev(last);
  const Id end = latest->second;
  pins_.erase(latest);
  unpin_path(end);
  return true;
}

// The end first, so that it is evicted before its beginning. The books are told once all nodes
// are as they will be.
void RadixTree::unpin_path(Id end) noexcept {
  for (Id at = end; is_block(at); at = nodes_[at].parent) --nodes_[at].pins;
  for (Id at = end; is_block(at); at = nodes_[at].parent) {
    if (nodes_[at].pins == 0) ledger_.unpin(nodes_[at].block);
  }
  assert(holds([&] { check_changed(end); }));
}

void RadixTree::move_pins(Id from, Id to) noexcept {
  if (nodes_[from].pins == 0) return;
  nodes_[to].pins = std::exchange(nodes_[from].pins, 0);
  for (auto& [ids, end] : pins_) {
    if (end == from) end = to;
  }
  ledger_.pin(nodes_[to].block);
  ledger_.unpin(nodes_[from].block);
}

void RadixTree::drop_pins() noexcept {
  while (!pins_.empty()) {
    const Id end = pins_.begin()->second;
    pins_.erase(pins_.begin());
    unpin_path(end);
  }
}

}  // namespace quire
