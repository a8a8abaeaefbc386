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
  Id parent = find_space(space);
  if (parent == PrefixNodes::kNone) return {};
  while (!ids.empty()) {
    const auto first = ids.first(std::min<std::size_t>(ids.size(), block_size_));
    const auto found = nodes_.find_child(parent, first);
    if (found.common == 0) return {};
    if (found.common < block_size_) return {nodes_[found.node].block, found.common};
    blocks->push_back(nodes_[found.node].block);
    ids = ids.subspan(block_size_);
    parent = found.node;
  }
  return {};
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
  const Id added = add_block(parent, ids, block);
  if (continues) drop_leaf(found);  // those ids and more
  if (leaves_a_place(added, when) && (size_ <= max_nodes_ || evict_leaf())) return added;
  drop_leaf(added);
  return PrefixNodes::kNone;
}

bool RadixTree::leaves_a_place(Id added, WhenEverywhere when) noexcept {
  std::int64_t places = 0;
  Id oldest = added;
  for (Id at = added; at != PrefixNodes::kNone; at = nodes_[at].next, ++places) oldest = at;
  if (places <= kMaxPlaces) return true;
  if (when == WhenEverywhere::stays_out) return false;
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
  for (Id at = parent; is_block(at); at = nodes_[at].parent) make_newest(at);
  assert(holds([&] { check_changed(parent); }));
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
  assert(node.child == PrefixNodes::kNone && block >= 0);
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
  while (nodes_[root_].child != PrefixNodes::kNone) {
    drop_subtree(nodes_[nodes_[root_].child].child, false);
  }
  misses_.clear();
  assert(holds([&] { check_changed(); }));
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
  assert(holds([&] { check_changed(); }));
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

namespace {

void expect(bool holds, const char* what, PrefixNodes::Id node) {
  if (holds) return;
  raise<InvariantError>("BlockPool.check: prefix cache", "got node ", node, " that ", what,
                        ", expected none");
}

}  // namespace

void RadixTree::check(std::vector<std::int32_t>& held) const {
  std::vector<Id> inner = {root_};
  std::int64_t blocks = -1, spaces = 0;  // the root is none
  while (!inner.empty()) {
    const Id parent = inner.back();
    inner.pop_back();
    check_children(parent, &inner);
    blocks += is_block(parent) || parent == root_;
    spaces += !is_block(parent) && parent != root_;
  }
  expect(blocks == size_, "was not counted", root_);
  expect(spaces == num_spaces_ && spaces <= size_, "is a namespace and was not counted", root_);
  check_blocks();
  check_lists();
  for (std::size_t block = 0; block < nodes_of_block_.size(); ++block) {
    for (Id at = nodes_of_block_[block]; at != PrefixNodes::kNone; at = nodes_[at].next) {
      ++held[block];
    }
  }
}

void RadixTree::check_node(Id id) const {
  const PrefixNodes::Node& node = nodes_[id];
  expect(is_block(id) == (node.parent != root_), "has no block, or is no namespace", id);
  expect(node.size >= 1 && (!is_block(id) || node.size <= block_size_), "has no right size", id);
  expect(!is_idle(id) || nodes_.is_listed(id), "is idle and not listed", id);
}

void RadixTree::check_changed(Id leaf) const {
  if (std::ssize(nodes_of_block_) <= kSmallBooks && size_ <= kSmallBooks) {
    std::vector<std::int32_t> held(nodes_of_block_.size());
    return check(held);
  }
  expect(size_ >= 0 && size_ <= max_nodes_, "is one too many", root_);
  expect(num_spaces_ >= 0 && num_spaces_ <= size_, "is a namespace and was not counted", root_);
  for (Id at = leaf; is_block(at); at = nodes_[at].parent) {
    check_node(at);
    expect(nodes_[nodes_[at].parent].child != PrefixNodes::kNone, "is not its parent's", at);
  }
}

// That the children are in order and as the header says; appends them to `inner`.
void RadixTree::check_children(Id parent, std::vector<Id>* inner) const {
  const std::size_t begin = inner->size();
  std::vector<Id> path;
  for (Id at = nodes_[parent].child; at != PrefixNodes::kNone || !path.empty();) {
    for (; at != PrefixNodes::kNone; at = nodes_[at].left) path.push_back(at);
    const Id node = path.back();
    path.pop_back();
    inner->push_back(node);
    at = nodes_[node].right;
  }
  expect(parent == root_ || is_block(parent) || inner->size() > begin, "has no children", parent);
  expect(inner->size() == begin || !is_block(parent) || nodes_[parent].size == block_size_,
         "has children and is not full", parent);
  for (std::size_t i = begin; i < inner->size(); ++i) {
    const Id id = (*inner)[i];
    const PrefixNodes::Node& node = nodes_[id];
    expect(node.parent == parent, "has another parent", id);
    check_node(id);
    if (i == begin) continue;
    const PrefixNodes::Node& before = nodes_[(*inner)[i - 1]];
    std::int64_t common = 0;
    const std::int64_t most = std::min(node.size, before.size);
    while (common < most && before.id(common) == node.id(common)) ++common;
    expect(common < most && before.id(common) < node.id(common), "is not after its sibling", id);
  }
}

// That each block's nodes know each other, and are all.
void RadixTree::check_blocks() const {
  std::int64_t count = 0;
  for (std::size_t block = 0; block < nodes_of_block_.size(); ++block) {
    Id previous = PrefixNodes::kNone;
    std::int64_t places = 0;
    for (Id at = nodes_of_block_[block]; at != PrefixNodes::kNone; at = nodes_[at].next) {
      expect(++places <= kMaxPlaces, "is one place too many of its block", at);
      expect(nodes_[at].block == static_cast<std::int32_t>(block), "is another block's", at);
      expect(nodes_[at].previous == previous, "has another neighbour", at);
      previous = at;
      ++count;
    }
  }
  expect(count == size_, "is of no block", root_);
}

// That the lists are whole, and each node knows which one it is in.
void RadixTree::check_lists() const {
  for (const Id head : {idle_, waiting_}) {
    for (Id at = head; nodes_[at].newer != head; at = nodes_[at].newer) {
      const Id listed = nodes_[at].newer;
      expect(is_block(listed), "is listed without a block", listed);
      expect(nodes_[listed].older == at, "has another neighbour in a list", listed);
      expect(nodes_[listed].waits == (head == waiting_), "is in the wrong list", listed);
    }
  }
}

}  // namespace quire
