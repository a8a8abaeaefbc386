// Which blocks of a pool hold the keys and values of which token ids: a radix tree, a block a node.
//
// Below the root stand the namespaces, below each the first blocks of its sequences, and so on; the
// drawing is in prefix_nodes.h. For every node but root and namespaces:
//
//   it has one reference, a cache's, to its block, whose first `size` rows belong to its ids; or it
//   is a hole, of tokens that a window has given up, and has children
//   1 <= size <= block_size, and size = block_size where it has children
//   the ids of no sibling begin with its ids
//   it is listed, once, if its block is idle
//
// and a namespace has children. A pin is a path from a namespace down: none of its nodes is dropped
// but by clear(), and none of its blocks is idle. Only its end may become another node, one with
// the same ids and more.
//
// So all that is here is bounded by the blocks of the pool, whatever is inserted, and however long
// somebody holds or pins a block so that it is not idle:
//
//   places(b)    nodes of block b     places(b) <= kMaxPlaces
//   size         sum of places(b)     size <= max_nodes, where there is such a limit
//   namespaces   <= size
//   nodes        = size + holes + namespaces + the root, the heads of lists and one that stands for
//                  none <= 2 * kMaxPlaces * num_blocks + 3 + lists + holes
//   lists        one for each priority that was ever inserted
//   holes        those above each node with a block: as many as the table that was inserted has
//                columns without one
//
// A block that is inserted at one place more leaves the one where it was inserted longest ago, of
// those that are not pinned, with what stands below.
//
// Who goes first: idle nodes are listed by their priority, and of one priority from the one used
// least recently to the one used last (idle_lists.h). A block is in use as long as somebody holds
// it, so a node comes to the end of its list when the last table lets go of its block. Tables let
// go from their ends, so a node comes before its parent; where it does not, or has the higher
// priority, the parent waits in a list of its own until it has no children, and is next then. Nodes
// that are not idle any more are taken off the lists when they are met there. So each step costs
// O(1), but for O(log siblings) to take a node from its siblings.
//
// The priority of a node is the highest with which it was inserted since it is there.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/kv/ledger/block_ledger.h"
#include "quire/kv/prefix/idle_lists.h"
#include "quire/kv/prefix/miss_memory.h"
#include "quire/kv/prefix/prefix_events.h"
#include "quire/kv/prefix/prefix_nodes.h"
#include "quire/kv/prefix/prefix_snapshot.h"
#include "quire/kv/prefix/prefix_window.h"

namespace quire {

// For one thread at a time: under the pool's lock.
class RadixTree final : public BlockCache {
 public:
  // Places of a block, which are several where a table is inserted into several namespaces.
  static constexpr std::int64_t kMaxPlaces = 16;

  // Joins the ledger's caches; clear() and leave it before this goes.
  RadixTree(BlockLedger& ledger, std::int64_t num_blocks, std::int64_t block_size,
            std::int64_t max_nodes);

  // Blocks that it holds, one that stands at two places counted twice.
  std::int64_t size() const { return size_; }
  std::int64_t evictions() const { return evictions_; }

  // A block whose first rows continue what was found; none where rows == 0.
  struct Rest {
    std::int32_t block = -1;
    std::int64_t rows = 0;
  };
  // Appends the blocks that hold ids from the beginning on, all rows of each, to blocks: up to the
  // first hole; or where `window` has a size, what it needs of the longest beginning that it can
  // use, with holes before. Only whole blocks where no rows may be copied.
  struct Search {
    PrefixWindow window = {};
    bool copies_rows = true;
  };
  Rest find(TokenIds space, TokenIds ids, const Search& search,
            std::vector<std::int32_t>* blocks) const;

  // Keeps blocks, held by a table, which hold the ids; the last may be filled in part, and is no
  // hole. Stops where max_nodes are reached and none of them is idle, or where the block has all
  // its places on the way there. Throws std::bad_alloc, having kept the first.
  void insert(TokenIds space, TokenIds ids, std::span<const std::int32_t> blocks, int priority = 0);

  // All that it holds but for what stands below holes, without a reference. O(blocks of the pool +
  // nodes).
  PrefixSnapshot snapshot() const;
  // The block of each node of a snapshot whose ids are here, -1 for the others.
  std::vector<std::int32_t> blocks_of(const PrefixSnapshot& snapshot,
                                      std::span<const std::vector<std::int64_t>> spaces) const;
  // Adds the nodes of a snapshot, whose blocks are held and whose namespaces have these ids, the
  // newest first; what is there already stays, also where its block has all its places: what was
  // used before them is left out. Else stops short as insert does, and throws as it does.
  void restore(const PrefixSnapshot& snapshot, std::span<const std::vector<std::int64_t>> spaces);

  // Drops the idle node that goes first, or, where all that are idle have children, the least
  // recent of those with all below it. False where none is idle.
  bool evict_one() noexcept;
  // Drops everything, what is pinned too, and forgets what there was.
  void clear() noexcept;

  // By the ids of the namespace and, after them, of the tokens: where the path ends.
  using Pins = std::multimap<std::vector<std::int64_t>, PrefixNodes::Id>;
  // The memory of a pin, and its key.
  static Pins new_pin(TokenIds space, TokenIds ids);
  // Pins all that find() finds of these ids, and says how many they are; where they are none, the
  // pin stays the caller's.
  std::int64_t pin(TokenIds space, TokenIds ids, Pins* pin) noexcept;
  // Takes the latest pin with the same key back; false where there is none.
  bool unpin(const Pins& pin) noexcept;

  // Where events are written down from now on; null: nowhere.
  void write_events_to(PrefixEvents* events) { events_ = events; }

  // Why nothing was found for these ids, and that they were asked for.
  MissReason miss_reason(TokenIds space, TokenIds ids) const;
  void note_asked(TokenIds space, TokenIds ids, std::weak_ptr<void> lease) noexcept;

  void note_idle(std::int32_t block) noexcept override;
  void reclaim(std::int64_t num_free) noexcept override;
  void forget(std::int32_t block) noexcept override;
  void check(std::vector<std::int32_t>& held, std::vector<std::int32_t>& pinned) const override;

 private:
  friend class RadixTreeTest;
  using Id = PrefixNodes::Id;

  bool is_block(Id node) const { return nodes_[node].block >= 0; }
  bool is_hole(Id node) const { return nodes_[node].block == PrefixNodes::kHoleBlock; }
  bool is_prefix(Id node) const { return nodes_[node].block != PrefixNodes::kNoTokens; }
  bool is_idle(Id node) const { return is_block(node) && ledger_.is_idle(nodes_[node].block); }
  // The ids of a namespace (ids_of in prefix_cache.cpp) as its name: all but the end.
  static std::string name_of(const PrefixNodes::Node& space);
  void tell(PrefixEvent::Kind kind, Id node) noexcept;
  Id find_space(TokenIds space) const;
  // visit(node, rows) for each node that has the ids, from the beginning on, until it is false: all
  // its rows, but for the last maybe.
  template <class Visit>
  void walk(TokenIds space, TokenIds ids, Visit visit) const;
  // The namespace, or the child with these ids, which is added where it is missing, and has the
  // block from now on where it was a hole; kHole adds a hole, whose child is to be added next.
  // add_child: kNone where max_nodes are reached and none of them is idle, or where the block has
  // all its places and is to stay out then, or cannot leave the oldest, which leads to `parent`, or
  // any, as all are pinned, or is not to leave any for a node that takes over a pin.
  enum class WhenEverywhere { leaves_oldest, stays_out };
  Id add_space(TokenIds space);
  Id add_child(Id parent, TokenIds ids, std::int32_t block, WhenEverywhere when, int priority);
  void raise_priority(Id node, int priority) noexcept;  // of one that is in no list
  bool leaves_a_place(Id added, WhenEverywhere when) noexcept;
  bool has_a_place_beside(Id node, std::int32_t block) const;
  void unpin_path(Id end) noexcept;
  void move_pins(Id from, Id to) noexcept;
  void drop_pins() noexcept;
  void drop_if_empty(Id space) noexcept;
  std::vector<Id> newest_first() const;
  Id add_node(Id parent, TokenIds ids, std::int32_t block);
  Id fill_hole(Id hole, std::int32_t block, WhenEverywhere when);
  void attach(Id node, std::int32_t block);  // a node without one gets a block
  void detach(Id node) noexcept;             // it becomes a hole
  // Of a node that has lost a child: drops holes that lead nowhere, and a namespace that is empty.
  void settle(Id node) noexcept;
  void remove_leaf(Id node) noexcept;  // whose parent is settled afterwards
  bool evict_leaf() noexcept;
  void drop_leaf(Id node) noexcept;
  void note_eviction(Id node) noexcept;  // of one that is about to be dropped
  void drop_subtree(Id node, bool evicts) noexcept;
  void make_newest(Id node) noexcept;
  std::uint64_t space_fingerprint(Id space) const {
    return nodes_.fingerprint(space, nodes_[space].size);
  }
  // What can be looked at after each change, which ends at a node, or at none.
  void check_changed(Id leaf = PrefixNodes::kNone) const;
  void check_node(Id node) const;
  void check_children(Id parent, std::vector<Id>* inner) const;
  void check_blocks() const;
  void check_lists() const;
  void check_pins() const;

  BlockLedger& ledger_;
  const std::int64_t block_size_;
  const std::int64_t max_nodes_;
  PrefixNodes nodes_;
  const Id root_, waiting_;  // the second is the head of a list
  IdleLists idle_{nodes_};
  std::vector<Id> nodes_of_block_;  // the newest of each block's nodes
  std::int64_t size_ = 0;
  std::int64_t num_spaces_ = 0;
  std::int64_t evictions_ = 0;
  MissMemory misses_;
  Pins pins_;
  PrefixEvents* events_ = nullptr;
};

template <class Visit>
void RadixTree::walk(TokenIds space, TokenIds ids, Visit visit) const {
  Id parent = find_space(space);
  if (parent == PrefixNodes::kNone) return;
  while (!ids.empty()) {
    const auto first = ids.first(std::min<std::size_t>(ids.size(), block_size_));
    const auto [node, common] = nodes_.find_child(parent, first);
    if (common == 0) return;
    if (!visit(node, common) || common < block_size_) return;
    ids = ids.subspan(block_size_);
    parent = node;
  }
}

}  // namespace quire
