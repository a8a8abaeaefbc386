#include "quire/kv/prefix/prefix_snapshot.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "quire/kv/ledger/block_ledger.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "quire/kv/prefix/radix_tree.h"

namespace quire {

std::string RadixTree::name_of(const PrefixNodes::Node& space) {
  std::string name;
  for (std::int64_t i = 0; i + 1 < space.size; ++i) name += static_cast<char>(space.id(i));
  return name;
}

// The reverse of the order in which nodes go: those in use, and the idle ones of the highest
// priority from the newest on; but a parent always before its children, as those that wait for them
// go right after the last, and none below a hole.
std::vector<RadixTree::Id> RadixTree::newest_first() const {
  std::vector<Id> order;
  std::vector<bool> seen(static_cast<std::size_t>(nodes_.size()), false);
  std::vector<bool> below_hole(seen);  // or one itself
  std::vector<Id> path;
  const auto add = [&](Id node) {
    for (; is_prefix(node) && !seen[node]; node = nodes_[node].parent) {
      seen[node] = true;
      path.push_back(node);
    }
    for (bool leaves_out = below_hole[node]; !path.empty(); path.pop_back()) {
      leaves_out = leaves_out || is_hole(path.back());
      below_hole[path.back()] = leaves_out;
      if (!leaves_out) order.push_back(path.back());
    }
  };
  for (const Id first : nodes_of_block_) {
    for (Id at = first; at != PrefixNodes::kNone; at = nodes_[at].next) {
      if (!is_idle(at)) add(at);
    }
  }
  idle_.for_heads([&](Id head) {
    for (Id at = nodes_[head].older; at != head; at = nodes_[at].older) add(at);
  });
  assert(static_cast<std::int64_t>(order.size()) <= size_);
  return order;
}

PrefixSnapshot RadixTree::snapshot() const {
  PrefixSnapshot snapshot;
  std::vector<Id> order = newest_first();
  std::reverse(order.begin(), order.end());
  std::vector<std::int64_t> place(static_cast<std::size_t>(nodes_.size()), -1);  // by node
  std::vector<std::int64_t> block_place(nodes_of_block_.size(), -1);
  for (std::size_t i = 0; i < order.size(); ++i) place[order[i]] = static_cast<std::int64_t>(i);
  for (const Id id : order) {
    const PrefixNodes::Node& node = nodes_[id];
    if (!is_prefix(node.parent) && place[node.parent] < 0) {
      place[node.parent] = static_cast<std::int64_t>(snapshot.namespaces.size());
      snapshot.namespaces.push_back(name_of(nodes_[node.parent]));
    }
    std::int64_t& block = block_place[node.block];
    if (block < 0) {
      block = static_cast<std::int64_t>(snapshot.blocks.size());
      snapshot.blocks.push_back({node.block, 0});
    }
    std::int64_t& rows = snapshot.blocks[block].rows;
    rows = std::max<std::int64_t>(rows, node.size);
    const std::int64_t parent = place[node.parent];
    snapshot.nodes.push_back(
        {is_prefix(node.parent) ? parent : -1 - parent, block, node.size, node.priority});
    for (std::int64_t i = 0; i < node.size; ++i) snapshot.ids.push_back(node.id(i));
  }
  return snapshot;
}

std::vector<std::int32_t> RadixTree::blocks_of(
    const PrefixSnapshot& snapshot, std::span<const std::vector<std::int64_t>> spaces) const {
  std::vector<Id> found(snapshot.nodes.size(), PrefixNodes::kNone);
  std::vector<std::int32_t> blocks(snapshot.nodes.size(), -1);
  auto end = static_cast<std::int64_t>(snapshot.ids.size());
  for (std::size_t i = snapshot.nodes.size(); i-- > 0;) {
    const PrefixSnapshot::Node& node = snapshot.nodes[i];
    end -= node.size;
    const Id parent = node.parent < 0 ? find_space(spaces[-1 - node.parent]) : found[node.parent];
    if (parent == PrefixNodes::kNone) continue;
    const auto [child, common] =
        nodes_.find_child(parent, TokenIds(snapshot.ids).subspan(end, node.size));
    if (common != node.size) continue;
    found[i] = child;
    if (!is_hole(child)) blocks[i] = nodes_[child].block;
  }
  return blocks;
}

void RadixTree::restore(const PrefixSnapshot& snapshot,
                        std::span<const std::vector<std::int64_t>> spaces) {
  for (const PrefixSnapshot::Node& node : snapshot.nodes) {
    idle_.allow(static_cast<int>(node.priority));
  }
  // A node that was here already may be idle: held, it stays until its children have been added.
  std::vector<std::int32_t> held;
  const auto let_go = [&] {
    std::reverse(held.begin(), held.end());  // children before their parents
    ledger_.release(held);
  };
  try {
    std::vector<Id> added(snapshot.nodes.size(), PrefixNodes::kNone);
    auto end = static_cast<std::int64_t>(snapshot.ids.size());
    for (std::size_t i = snapshot.nodes.size(); i-- > 0;) {
      const PrefixSnapshot::Node& node = snapshot.nodes[i];
      end -= node.size;
      const Id parent = node.parent < 0 ? add_space(spaces[-1 - node.parent]) : added[node.parent];
      if (parent == PrefixNodes::kNone) continue;  // there was no room for it
      const TokenIds ids = TokenIds(snapshot.ids).subspan(end, node.size);
      added[i] = add_child(parent, ids, snapshot.blocks[node.block].id, WhenEverywhere::stays_out,
                           static_cast<int>(node.priority));
      if (!is_idle(added[i])) continue;
      held.push_back(nodes_[added[i]].block);
      ledger_.retain({&held.back(), 1});
    }
  } catch (...) {
    let_go();
    throw;
  }
  let_go();
  assert(holds([&] { check_changed(); }));
}

PrefixSnapshot PrefixCache::snapshot() const {
  const BlockPool::Delivery delivery(*pool_);
  const BlockPool::Books books(*pool_);
  PrefixSnapshot snapshot = tree_->snapshot();
  std::vector<std::int32_t> blocks;
  blocks.reserve(snapshot.blocks.size());
  for (const BlockRows& block : snapshot.blocks) blocks.push_back(block.id);
  books->retain(blocks);
  return snapshot;
}

std::vector<std::vector<std::int64_t>> PrefixCache::ids_of_spaces(const PrefixSnapshot& snapshot) {
  std::vector<std::vector<std::int64_t>> spaces;
  spaces.reserve(snapshot.namespaces.size());
  for (const std::string& name : snapshot.namespaces) spaces.push_back(ids_of(name));
  return spaces;
}

std::vector<std::int32_t> PrefixCache::hold_blocks_of(const PrefixSnapshot& snapshot) {
  const auto spaces = ids_of_spaces(snapshot);
  const BlockPool::Delivery delivery(*pool_);
  const BlockPool::Books books(*pool_);
  std::vector<std::int32_t> blocks = tree_->blocks_of(snapshot, spaces);
  std::vector<std::int32_t> found(blocks.size());
  found.erase(
      std::copy_if(blocks.begin(), blocks.end(), found.begin(), [](auto id) { return id >= 0; }),
      found.end());
  books->retain(found);
  return blocks;
}

std::int64_t PrefixCache::restore(const PrefixSnapshot& snapshot) {
  const auto spaces = ids_of_spaces(snapshot);
  const BlockPool::Delivery delivery(*pool_);
  const BlockPool::Books books(*pool_);
  const std::int64_t before = tree_->size();
  tree_->restore(snapshot, spaces);
  return tree_->size() - before;
}

}  // namespace quire
