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
      idle_(nodes_.create({})),
      waiting_(nodes_.create({})),
      nodes_of_block_(num_blocks, PrefixNodes::kNone) {
  nodes_.make_list(idle_);
  nodes_.make_list(waiting_);
  ledger_.join(*this);
}

PrefixNodes::Id RadixTree::find_space(TokenIds space) const {
  const auto found = nodes_.find_child(root_, space);
  const bool whole = found.node != PrefixNodes::kNone && found.common == nodes_[found.node].size;
  return whole ? found.node : PrefixNodes::kNone;
}

RadixTree::Rest RadixTree::find(TokenIds space, TokenIds ids,
                                std::vector<std::int32_t>* blocks) const {
  Rest rest;
  walk(space, ids, [&](Id node, std::int64_t rows) {
    const std::int32_t block = nodes_[node].block;
    if (rows < block_size_) {
      rest = {block, rows};
    } else {
      blocks->push_back(block);
    }
  });
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
  if (is_block(space) || nodes_[space].child != PrefixNodes::kNone) return;
  nodes_.remove_child(space);
  nodes_.destroy(space);
  --num_spaces_;
}

PrefixNodes::Id RadixTree::add_child(Id parent, TokenIds ids, std::int32_t block,
                                     WhenEverywhere when) {
  const auto [found, common] = nodes_.find_child(parent, ids);
  // there, or the beginning of another
  if (common == static_cast<std::int64_t>(ids.size())) return found;
  const bool continues = found != PrefixNodes::kNone && common == nodes_[found].size;
  // What takes over a pin must not have to go again.
  if (continues && nodes_[found].pins > 0 && !has_a_place_beside(found, block)) {
    return PrefixNodes::kNone;
  }
  const Id added = add_block(parent, ids, block);
  if (continues) {  // those ids and more
    move_pins(found, added);
    drop_leaf(found);
  }
  if (leaves_a_place(added, when) && (size_ <= max_nodes_ || evict_leaf())) return added;
  drop_leaf(added);
  return PrefixNodes::kNone;
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
  for (Id at = added; is_block(at); at = nodes_[at].parent) {
    if (at == oldest) return false;
  }
  drop_subtree(oldest, true);
  return true;
}

void RadixTree::insert(TokenIds space, TokenIds ids, std::span<const std::int32_t> blocks) {
  if (ids.empty()) return;
  Id parent = add_space(space);
  for (std::size_t i = 0; !ids.empty(); ++i) {
    const auto first = ids.first(std::min<std::size_t>(ids.size(), block_size_));
    const Id child = add_child(parent, first, blocks[i], WhenEverywhere::leaves_oldest);
    if (child == PrefixNodes::kNone) break;
    parent = child;
    ids = ids.subspan(first.size());
  }
  // Those that the table does not hold itself were used now, a node before its parent.
  for (; is_block(parent); parent = nodes_[parent].parent) make_newest(parent);
}

PrefixNodes::Id RadixTree::add_block(Id parent, TokenIds ids, std::int32_t block) {
  assert(!ledger_.is_idle(block));
  Id added = PrefixNodes::kNone;
  try {
    added = nodes_.create(ids);
  } catch (...) {
    drop_if_empty(parent);
    throw;
  }
  ledger_.give_to_cache(block);
  PrefixNodes::Node& node = nodes_[added];
  Id& first = nodes_of_block_[block];
  node.block = block;
  node.next = first;
  if (first != PrefixNodes::kNone) nodes_[first].previous = added;
  first = added;
  nodes_.add_child(parent, added);
  ++size_;
  if (!is_block(parent) && node.size == block_size_) {
    misses_.note_cached(nodes_.fingerprint(added, block_size_), space_fingerprint(parent));
  }
  return added;
}

void RadixTree::drop_leaf(Id dropped) noexcept {
  const PrefixNodes::Node& node = nodes_[dropped];
  const Id parent = node.parent;
  const std::int32_t block = node.block;
  assert(node.child == PrefixNodes::kNone && block >= 0 && node.pins == 0);
  if (!is_block(parent) && node.size == block_size_) {
    misses_.note_evicted(nodes_.fingerprint(dropped, block_size_), space_fingerprint(parent));
  }
  nodes_.remove_child(dropped);
  if (nodes_.is_listed(dropped)) nodes_.unlist(dropped);
  (node.previous == PrefixNodes::kNone ? nodes_of_block_[block] : nodes_[node.previous].next) =
      node.next;
  if (node.next != PrefixNodes::kNone) nodes_[node.next].previous = node.previous;
  nodes_.destroy(dropped);
  --size_;
  ledger_.drop_from_cache(block);

  if (!is_block(parent)) return drop_if_empty(parent);
  if (nodes_[parent].child == PrefixNodes::kNone && nodes_[parent].waits) {
    nodes_[parent].waits = false;
    nodes_.unlist(parent);
    nodes_.insert_after(idle_, parent);
  }
}

void RadixTree::evict(Id leaf) noexcept {
  ledger_.note_eviction(nodes_[leaf].block);
  drop_leaf(leaf);
  ++evictions_;
}

void RadixTree::drop_subtree(Id top, bool evicts) noexcept {
  for (Id at = top;;) {
    while (nodes_[at].child != PrefixNodes::kNone) at = nodes_[at].child;
    const Id parent = nodes_[at].parent;
    evicts ? evict(at) : drop_leaf(at);
    if (at == top) return;
    at = parent;
  }
}

bool RadixTree::evict_leaf() noexcept {
  while (nodes_[idle_].newer != idle_) {
    const Id oldest = nodes_[idle_].newer;
    if (is_idle(oldest) && nodes_[oldest].child == PrefixNodes::kNone) {
      evict(oldest);
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
  if (evict_leaf()) return true;
  while (nodes_[waiting_].newer != waiting_) {
    const Id oldest = nodes_[waiting_].newer;
    if (is_idle(oldest)) {
      drop_subtree(oldest, true);
      return true;
    }
    nodes_[oldest].waits = false;
    nodes_.unlist(oldest);
  }
  return false;
}

void RadixTree::reclaim(std::int64_t num_free) noexcept {
  while (ledger_.num_free() < num_free && evict_one()) continue;
}

void RadixTree::forget(std::int32_t block) noexcept {
  while (nodes_of_block_[block] != PrefixNodes::kNone) drop_subtree(nodes_of_block_[block], true);
}

void RadixTree::clear() noexcept {
  drop_pins();
  while (nodes_[root_].child != PrefixNodes::kNone) {
    drop_subtree(nodes_[nodes_[root_].child].child, false);
  }
  misses_.clear();
}

void RadixTree::make_newest(Id node) noexcept {
  if (nodes_.is_listed(node)) nodes_.unlist(node);
  nodes_[node].waits = false;
  if (is_idle(node)) nodes_.insert_before(idle_, node);
}

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
