#include "quire/kv/prefix/radix_tree.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "quire/base/check.h"

namespace quire {

RadixTree::RadixTree(BlockLedger& ledger, std::int64_t num_blocks, std::int64_t block_size,
                     std::int64_t max_nodes)
    : ledger_(ledger),
      block_size_(block_size),
      max_nodes_(max_nodes),
      root_(nodes_.create({})),
      waiting_(nodes_.create({})),
      nodes_of_block_(num_blocks, PrefixNodes::kNone) {
  idle_.allow(0);
  nodes_.make_list(waiting_);
  ledger_.join(*this);
}

PrefixNodes::Id RadixTree::find_space(TokenIds space) const {
  const auto found = nodes_.find_child(root_, space);
  const bool whole = found.node != PrefixNodes::kNone && found.common == nodes_[found.node].size;
  return whole ? found.node : PrefixNodes::kNone;
}

RadixTree::Rest RadixTree::find(TokenIds space, TokenIds ids, const Search& search,
                                std::vector<std::int32_t>* blocks) const {
  Rest rest;
  const bool has_window = search.window.size > 0;
  walk(space, ids, [&](Id node, std::int64_t rows) {
    if (is_hole(node) && !has_window) return false;
    const std::int32_t block = is_hole(node) ? kHole : nodes_[node].block;
    if (rows == block_size_) {
      blocks->push_back(block);
    } else if (block != kHole && search.copies_rows) {
      rest = {block, rows};
    }
    return true;
  });
  if (has_window && !cut_to_window(search.window, block_size_, rest.rows, blocks)) return {};
  return rest;
}

PrefixNodes::Id RadixTree::add_space(TokenIds space) {
  const Id found = find_space(space);
  if (found != PrefixNodes::kNone) return found;
  const Id added = nodes_.create(space);
  nodes_.add_child(root_, added);
  ++num_spaces_;
  return added;
}

void RadixTree::drop_if_empty(Id space) noexcept {
  if (is_prefix(space) || nodes_[space].child != PrefixNodes::kNone) return;
  nodes_.remove_child(space);
  nodes_.destroy(space);
  --num_spaces_;
}

PrefixNodes::Id RadixTree::add_child(Id parent, TokenIds ids, std::int32_t block,
                                     WhenEverywhere when, int priority) {
  const auto [found, common] = nodes_.find_child(parent, ids);
  // there, or the beginning of another
  if (common == static_cast<std::int64_t>(ids.size())) {
    if (!is_hole(found) || block == kHole || common < block_size_) return found;
    raise_priority(found, priority);
    return fill_hole(found, block, when);
  }
  const bool continues = found != PrefixNodes::kNone && common == nodes_[found].size;
  // What takes over a pin must not have to go again.
  if (continues && nodes_[found].pins > 0 &&
      (block == kHole || !has_a_place_beside(found, block))) {
    return PrefixNodes::kNone;
  }
  const Id added = add_node(parent, ids, block);
  raise_priority(added, priority);
  if (continues) {  // those ids and more
    raise_priority(added, nodes_[found].priority);
    move_pins(found, added);
    drop_leaf(found);
  }
  if (block == kHole) return added;
  if (leaves_a_place(added, when) && (size_ <= max_nodes_ || evict_leaf())) return added;
  drop_leaf(added);
  return PrefixNodes::kNone;
}

void RadixTree::raise_priority(Id node, int priority) noexcept {
  std::int8_t& own = nodes_[node].priority;
  own = std::max(own, static_cast<std::int8_t>(priority));
}

// It may go with the last that stands below it, where those make room and yet there is none.
PrefixNodes::Id RadixTree::fill_hole(Id hole, std::int32_t block, WhenEverywhere when) {
  attach(hole, block);
  if (leaves_a_place(hole, when) && (size_ <= max_nodes_ || evict_leaf())) return hole;
  detach(hole);
  tell(PrefixEvent::Kind::stored, hole);
  const bool goes = nodes_[hole].child == PrefixNodes::kNone;
  settle(hole);
  return goes ? PrefixNodes::kNone : hole;
}

bool RadixTree::has_a_place_beside(Id node, std::int32_t block) const {
  std::int64_t places = 0;
  for (Id at = nodes_of_block_[block]; at != PrefixNodes::kNone; at = nodes_[at].next) {
    places += at != node;
  }
  return places < kMaxPlaces;
}

bool RadixTree::leaves_a_place(Id added, WhenEverywhere when) noexcept {
  std::int64_t places = 0;
  Id oldest = added;
  for (Id at = added; at != PrefixNodes::kNone; at = nodes_[at].next, ++places) {
    if (nodes_[at].pins == 0) oldest = at;
  }
  if (places <= kMaxPlaces) return true;
  if (when == WhenEverywhere::stays_out) return false;  // nor where the added one is the oldest
  for (Id at = added; is_prefix(at); at = nodes_[at].parent) {
    if (at == oldest) return false;
  }
  drop_subtree(oldest, true);
  return true;
}

void RadixTree::insert(TokenIds space, TokenIds ids, std::span<const std::int32_t> blocks,
                       int priority) {
  if (ids.empty()) return;
  idle_.allow(priority);
  Id parent = add_space(space);
  Id last = PrefixNodes::kNone;  // with a block, which stays whatever is dropped for want of room
  for (std::size_t i = 0; !ids.empty(); ++i) {
    const auto first = ids.first(std::min<std::size_t>(ids.size(), block_size_));
    const Id child = add_child(parent, first, blocks[i], WhenEverywhere::leaves_oldest, priority);
    if (child == PrefixNodes::kNone) break;
    if (is_block(child)) last = child;
    parent = child;
    ids = ids.subspan(first.size());
  }
  // Those that the table does not hold itself were used now, a node before its parent.
  for (Id at = last; is_prefix(at); at = nodes_[at].parent) {
    if (nodes_.is_listed(at)) nodes_.unlist(at);
    raise_priority(at, priority);
    if (is_block(at)) make_newest(at);
  }
  assert(holds([&] { check_changed(last); }));
}

PrefixNodes::Id RadixTree::add_node(Id parent, TokenIds ids, std::int32_t block) {
  Id added = PrefixNodes::kNone;
  try {
    added = nodes_.create(ids);
  } catch (...) {
    settle(parent);
    throw;
  }
  nodes_.add_child(parent, added);
  nodes_[added].block = PrefixNodes::kHoleBlock;
  if (block != kHole) {
    attach(added, block);
  } else {
    tell(PrefixEvent::Kind::stored, added);
  }
  return added;
}

void RadixTree::attach(Id to, std::int32_t block) {
  assert(is_hole(to) && !ledger_.is_idle(block));
  ledger_.give_to_cache(block);
  PrefixNodes::Node& node = nodes_[to];
  Id& first = nodes_of_block_[block];
  node.block = block;
  node.next = first;
  if (first != PrefixNodes::kNone) nodes_[first].previous = to;
  first = to;
  ++size_;
  if (!is_prefix(node.parent) && node.size == block_size_) {
    misses_.note_cached(nodes_.fingerprint(to, block_size_), space_fingerprint(node.parent));
  }
  tell(PrefixEvent::Kind::stored, to);
}

void RadixTree::detach(Id from) noexcept {
  PrefixNodes::Node& node = nodes_[from];
  const std::int32_t block = node.block;
  assert(block >= 0 && node.pins == 0);
  if (!is_prefix(node.parent) && node.size == block_size_) {
    misses_.note_evicted(nodes_.fingerprint(from, block_size_), space_fingerprint(node.parent));
  }
  if (nodes_.is_listed(from)) nodes_.unlist(from);
  node.waits = false;
  (node.previous == PrefixNodes::kNone ? nodes_of_block_[block] : nodes_[node.previous].next) =
      node.next;
  if (node.next != PrefixNodes::kNone) nodes_[node.next].previous = node.previous;
  node.next = node.previous = PrefixNodes::kNone;
  node.block = PrefixNodes::kHoleBlock;
  --size_;
  ledger_.drop_from_cache(block);
}

void RadixTree::remove_leaf(Id leaf) noexcept {
  assert(is_prefix(leaf) && nodes_[leaf].child == PrefixNodes::kNone);
  tell(PrefixEvent::Kind::removed, leaf);
  if (is_block(leaf)) detach(leaf);
  nodes_.remove_child(leaf);
  nodes_.destroy(leaf);
}

void RadixTree::settle(Id node) noexcept {
  while (is_hole(node) && nodes_[node].child == PrefixNodes::kNone) {
    const Id parent = nodes_[node].parent;
    remove_leaf(node);
    node = parent;
  }
  if (!is_prefix(node)) return drop_if_empty(node);
  if (nodes_[node].child == PrefixNodes::kNone && nodes_[node].waits) {
    nodes_[node].waits = false;
    nodes_.unlist(node);
    idle_.add_oldest(node);
  }
}

void RadixTree::drop_leaf(Id dropped) noexcept {
  const Id parent = nodes_[dropped].parent;
  remove_leaf(dropped);
  settle(parent);
}

void RadixTree::note_eviction(Id node) noexcept {
  ledger_.note_eviction(nodes_[node].block);
  ++evictions_;
}

void RadixTree::drop_subtree(Id top, bool evicts) noexcept {
  const Id above = nodes_[top].parent;
  for (Id at = top;;) {
    while (nodes_[at].child != PrefixNodes::kNone) at = nodes_[at].child;
    const Id parent = nodes_[at].parent;
    if (evicts && is_block(at)) note_eviction(at);
    remove_leaf(at);
    if (at == top) break;
    at = parent;
  }
  settle(above);
}

bool RadixTree::evict_leaf() noexcept {
  for (Id oldest; (oldest = idle_.oldest()) != PrefixNodes::kNone;) {
    if (is_idle(oldest) && nodes_[oldest].child == PrefixNodes::kNone) {
      note_eviction(oldest);
      drop_leaf(oldest);
      return true;
    }
    nodes_.unlist(oldest);
    if (is_idle(oldest)) {
      nodes_[oldest].waits = true;
      nodes_.insert_before(waiting_, oldest);
    }
  }
  return false;
}

bool RadixTree::evict_one() noexcept {
  bool is_found = evict_leaf();
  while (!is_found && nodes_[waiting_].newer != waiting_) {
    const Id oldest = nodes_[waiting_].newer;
    is_found = is_idle(oldest);
    if (is_found) {
      drop_subtree(oldest, true);
    } else {
      nodes_[oldest].waits = false;
      nodes_.unlist(oldest);
    }
  }
  assert(holds([&] { check_changed(); }));
  return is_found;
}

void RadixTree::reclaim(std::int64_t num_free) noexcept {
  while (ledger_.num_free() < num_free && evict_one()) continue;
}

void RadixTree::forget(std::int32_t block) noexcept {
  while (nodes_of_block_[block] != PrefixNodes::kNone) drop_subtree(nodes_of_block_[block], true);
  assert(holds([&] { check_changed(); }));
}

void RadixTree::clear() noexcept {
  drop_pins();
  while (nodes_[root_].child != PrefixNodes::kNone) {
    drop_subtree(nodes_[nodes_[root_].child].child, false);
  }
  misses_.clear();
  assert(holds([&] { check_changed(); }));
}

void RadixTree::make_newest(Id node) noexcept {
  if (nodes_.is_listed(node)) nodes_.unlist(node);
  nodes_[node].waits = false;
  if (is_idle(node)) idle_.add_newest(node);
}

// Told in the middle of other changes as well, when the tree does not hold yet.
void RadixTree::note_idle(std::int32_t block) noexcept {
  for (Id node = nodes_of_block_[block]; node != PrefixNodes::kNone; node = nodes_[node].next) {
    make_newest(node);
  }
}

MissReason RadixTree::miss_reason(TokenIds space, TokenIds ids) const {
  if (static_cast<std::int64_t>(ids.size()) <= block_size_) return MissReason::short_;
  return misses_.reason(PrefixNodes::fingerprint(ids.first(block_size_)),
                        PrefixNodes::fingerprint(space));
}

void RadixTree::note_asked(TokenIds space, TokenIds ids, std::weak_ptr<void> lease) noexcept {
  if (static_cast<std::int64_t>(ids.size()) <= block_size_) return;
  misses_.note_asked(PrefixNodes::fingerprint(ids.first(block_size_)),
                     PrefixNodes::fingerprint(space), std::move(lease));
}

}  // namespace quire
