#include "quire/kv/prefix/prefix_nodes.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <new>
#include <utility>

namespace quire {
namespace {

using Id = PrefixNodes::Id;
using Node = PrefixNodes::Node;

// visit(pointer to the ids), of the type that the node keeps them in.
template <class Visit>
auto with_ids(const Node& node, Visit visit) {
  const void* ids = node.ids.get();
  return node.wide ? visit(static_cast<const std::int64_t*>(ids))
                   : visit(static_cast<const std::uint32_t*>(ids));
}

template <class A, class B>
std::int64_t common_prefix(const A* a, const B* b, std::int64_t most) {
  std::int64_t i = 0;
  while (i < most && static_cast<std::int64_t>(a[i]) == static_cast<std::int64_t>(b[i])) ++i;
  return i;
}

// Of 64 bits: MurmurHash3's finalizer.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
  return x ^ (x >> 33);
}

template <class T>
std::uint64_t fingerprint_of(const T* ids, std::int64_t size) {
  std::uint64_t sum = mix(static_cast<std::uint64_t>(size));
  for (std::int64_t i = 0; i < size; ++i) {
    sum = mix(sum * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(ids[i]));
  }
  return sum;
}

template <class T>
void copy_ids(TokenIds ids, Node* node) {
  auto* to = static_cast<T*>(std::malloc(std::max<std::size_t>(1, ids.size() * sizeof(T))));
  if (to == nullptr) throw std::bad_alloc();
  std::transform(ids.begin(), ids.end(), to, [](std::int64_t id) { return static_cast<T>(id); });
  node->ids.reset(to);
}

}  // namespace

std::int64_t PrefixNodes::Node::id(std::int64_t i) const {
  return with_ids(*this, [i](const auto* all) { return static_cast<std::int64_t>(all[i]); });
}

PrefixNodes::Id PrefixNodes::create(TokenIds ids) {
  Node made;
  made.size = static_cast<std::int32_t>(ids.size());
  made.wide = std::any_of(ids.begin(), ids.end(), [](std::int64_t id) {
    return id < 0 || id > std::int64_t{std::numeric_limits<std::uint32_t>::max()};
  });
  made.wide ? copy_ids<std::int64_t>(ids, &made) : copy_ids<std::uint32_t>(ids, &made);
  Id node = free_;
  if (node != kNone) {
    free_ = (*this)[node].left;
  } else {
    if (size_ == std::numeric_limits<Id>::max()) throw std::bad_alloc();
    if (size_ % kChunk == 0) chunks_.push_back(std::make_unique<Node[]>(kChunk));
    node = size_++;
  }
  (*this)[node] = std::move(made);
  return node;
}

void PrefixNodes::destroy(Id node) noexcept {
  (*this)[node] = Node();
  (*this)[node].left = free_;
  free_ = node;
}

PrefixNodes::Found PrefixNodes::find_child(Id parent, TokenIds ids) const {
  const auto size = static_cast<std::int64_t>(ids.size());
  Found before, after;  // the nearest met so far
  for (Id at = (*this)[parent].child; at != kNone;) {
    const Node& node = (*this)[at];
    const std::int64_t most = std::min<std::int64_t>(node.size, size);
    const std::int64_t common =
        with_ids(node, [&](const auto* own) { return common_prefix(own, ids.data(), most); });
    if (common == size && common == node.size) return {at, common};
    const bool goes_left = common == most ? size < node.size : ids[common] < node.id(common);
    (goes_left ? after : before) = {at, common};
    at = goes_left ? node.left : node.right;
  }
  return before.common >= after.common ? before : after;
}

// A shorter one comes before those that begin with it.
bool PrefixNodes::is_less(Id a, Id b) const {
  const Node& x = (*this)[a];
  const Node& y = (*this)[b];
  const std::int64_t most = std::min(x.size, y.size);
  const std::int64_t common = with_ids(x, [&](const auto* of_x) {
    return with_ids(y, [&](const auto* of_y) { return common_prefix(of_x, of_y, most); });
  });
  return common == most ? x.size < y.size : x.id(common) < y.id(common);
}

std::uint32_t PrefixNodes::rank(Id node) {
  return static_cast<std::uint32_t>(mix(static_cast<std::uint64_t>(node)));
}

void PrefixNodes::split(Id tree, Id key, Id* less, Id* more) {
  while (tree != kNone) {
    Node& node = (*this)[tree];
    if (is_less(tree, key)) {
      *less = tree;
      less = &node.right;
      tree = node.right;
    } else {
      *more = tree;
      more = &node.left;
      tree = node.left;
    }
  }
  *less = kNone;
  *more = kNone;
}

void PrefixNodes::add_child(Id parent, Id added) noexcept {
  Node& node = (*this)[added];
  node.parent = parent;
  Id* link = &(*this)[parent].child;
  while (*link != kNone && rank(*link) >= rank(added)) {
    link = is_less(*link, added) ? &(*this)[*link].right : &(*this)[*link].left;
  }
  split(*link, added, &node.left, &node.right);
  *link = added;
}

PrefixNodes::Id* PrefixNodes::find_link(Id wanted) {
  Id* link = &(*this)[(*this)[wanted].parent].child;
  while (*link != wanted) {
    assert(*link != kNone);
    link = is_less(*link, wanted) ? &(*this)[*link].right : &(*this)[*link].left;
  }
  return link;
}

void PrefixNodes::remove_child(Id removed) noexcept {
  Id* link = find_link(removed);
  Id left = (*this)[removed].left;
  Id right = (*this)[removed].right;
  while (left != kNone && right != kNone) {  // the two treaps become one
    Id& top = rank(left) >= rank(right) ? left : right;
    *link = top;
    link = &top == &left ? &(*this)[top].right : &(*this)[top].left;
    top = *link;
  }
  *link = left != kNone ? left : right;
  (*this)[removed].parent = kNone;
}

void PrefixNodes::make_list(Id head) { (*this)[head].older = (*this)[head].newer = head; }

void PrefixNodes::insert_after(Id older, Id node) noexcept {
  const Id newer = (*this)[older].newer;
  (*this)[node].older = older;
  (*this)[node].newer = newer;
  (*this)[older].newer = node;
  (*this)[newer].older = node;
}

void PrefixNodes::unlist(Id id) noexcept {
  Node& node = (*this)[id];
  (*this)[node.older].newer = node.newer;
  (*this)[node.newer].older = node.older;
  node.older = node.newer = kNone;
}

std::uint64_t PrefixNodes::fingerprint(Id node, std::int64_t size) const {
  return with_ids((*this)[node], [size](const auto* ids) { return fingerprint_of(ids, size); });
}

std::uint64_t PrefixNodes::fingerprint(TokenIds ids) {
  return fingerprint_of(ids.data(), static_cast<std::int64_t>(ids.size()));
}

}  // namespace quire
