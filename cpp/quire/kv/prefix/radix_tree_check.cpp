// That a tree is as radix_tree.h says.
#include <algorithm>
#include <unordered_map>
#include <vector>

#include "quire/base/check.h"
#include "quire/kv/prefix/radix_tree.h"

namespace quire {
namespace {

void expect(bool holds, const char* what, PrefixNodes::Id node) {
  if (holds) return;
  raise<InvariantError>("BlockPool.check: prefix cache", "got node ", node, " that ", what,
                        ", expected none");
}

}  // namespace

void RadixTree::check(std::vector<std::int32_t>& held, std::vector<std::int32_t>& pinned) const {
  std::vector<Id> inner = {root_};
  std::int64_t blocks = -1, spaces = 0;  // the root is none
  while (!inner.empty()) {
    const Id parent = inner.back();
    inner.pop_back();
    check_children(parent, &inner);
    blocks += is_block(parent) || parent == root_;
    spaces += !is_prefix(parent) && parent != root_;
  }
  expect(blocks == size_, "was not counted", root_);
  expect(spaces == num_spaces_ && spaces <= size_, "is a namespace and was not counted", root_);
  check_blocks();
  check_lists();
  check_pins();
  for (std::size_t block = 0; block < nodes_of_block_.size(); ++block) {
    for (Id at = nodes_of_block_[block]; at != PrefixNodes::kNone; at = nodes_[at].next) {
      ++held[block];
      pinned[block] += nodes_[at].pins > 0;
    }
  }
}

void RadixTree::check_node(Id id) const {
  const PrefixNodes::Node& node = nodes_[id];
  expect(is_prefix(id) == (node.parent != root_), "has no block, or is no namespace", id);
  expect(!is_hole(id) || !nodes_.is_listed(id), "is a hole and listed", id);
  expect(node.size >= 1 && (!is_prefix(id) || node.size <= block_size_), "has no right size", id);
  expect(!is_idle(id) || nodes_.is_listed(id), "is idle and not listed", id);
}

void RadixTree::check_changed(Id leaf) const {
  if (std::ssize(nodes_of_block_) <= kSmallBooks && size_ <= kSmallBooks) {
    std::vector<std::int32_t> held(nodes_of_block_.size()), pinned(nodes_of_block_.size());
    return check(held, pinned);
  }
  expect(size_ >= 0 && size_ <= max_nodes_, "is one too many", root_);
  expect(num_spaces_ >= 0 && num_spaces_ <= size_, "is a namespace and was not counted", root_);
  for (Id at = leaf; is_prefix(at); at = nodes_[at].parent) {
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
  expect(inner->size() == begin || !is_prefix(parent) || nodes_[parent].size == block_size_,
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
  const auto check_list = [&](Id head) {
    for (Id at = head; nodes_[at].newer != head; at = nodes_[at].newer) {
      const Id listed = nodes_[at].newer;
      expect(is_block(listed), "is listed without a block", listed);
      expect(nodes_[listed].older == at, "has another neighbour in a list", listed);
      expect(nodes_[listed].waits == (head == waiting_) &&
                 (head == waiting_ || nodes_[listed].priority == nodes_[head].priority),
             "is in the wrong list", listed);
    }
  };
  idle_.for_heads(check_list);
  check_list(waiting_);
}

// That the pins of each node are those that end there or below.
void RadixTree::check_pins() const {
  std::unordered_map<Id, std::int32_t> counted;
  for (const auto& [ids, end] : pins_) {
    for (Id at = end; is_prefix(at); at = nodes_[at].parent) ++counted[at];
  }
  for (const Id first : nodes_of_block_) {
    for (Id at = first; at != PrefixNodes::kNone; at = nodes_[at].next) {
      const auto found = counted.find(at);
      expect(nodes_[at].pins == (found == counted.end() ? 0 : found->second),
             "has a wrong number of pins", at);
    }
  }
}

}  // namespace quire
