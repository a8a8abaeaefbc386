// The nodes of a radix tree over token ids: their memory, their order among siblings, and lists.
//
//   root -- namespace -+- [ 5 1 8 2 ] -+- [ 7 7 1 3 ] -- [ 9 ]
//                      |               |
//                      |               `- [ 7 7 4 0 ]
//                      `- [ 6 6 6 6 ]
//
// The children of a node stand in lexicographic order of their ids, in a treap (Seidel and Aragon,
// "Randomized search trees", 1996). So one descent finds the child that has the ids looked for, or
// else the one that begins most like them: ids decide, and no table of hashes has to grow.
//
// Memory: a node is 56 bytes, and its ids are an array of 4 bytes each where all are in [0, 2^32),
// else of 8. That is 136 bytes for a block of 16 (200 with wide ids), malloc's own included.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

namespace quire {

using TokenIds = std::span<const std::int64_t>;

// For one thread at a time.
class PrefixNodes {
 public:
  using Id = std::int32_t;
  static constexpr Id kNone = 0;  // a node that stands for none

  // In place of a block: of a node that is no tokens', and of tokens that only lead to others.
  static constexpr std::int32_t kNoTokens = -1, kHoleBlock = -2;

  // What stays longer than all else that is not in use has a higher one.
  static constexpr int kLeastPriority = -100, kMostPriority = 100;

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  struct Node {
    Id parent = kNone;
    Id child = kNone;                   // the treap of its children
    Id left = kNone, right = kNone;     // in the treap of its siblings
    Id older = kNone, newer = kNone;    // in a list; kNone where in none
    Id next = kNone, previous = kNone;  // of the nodes of one block
    std::int32_t block = kNoTokens;
    std::int32_t size = 0;            // ids
    std::unique_ptr<void, Free> ids;  // of 8 bytes each where wide, else of 4
    std::int32_t pins = 0;            // of the node and of those below it
    bool wide = false;
    bool waits = false;  // see RadixTree
    std::int8_t priority = kLeastPriority;

    std::int64_t id(std::int64_t i) const;
  };

  // The child that begins most like ids looked for, and how many of them it shares: of those next
  // to where they would stand, the one before where both share as many.
  struct Found {
    Id node = kNone;
    std::int64_t common = 0;
  };

  PrefixNodes() { create({}); }  // kNone

  // More than any node.
  Id size() const { return size_; }

  Node& operator[](Id node) { return chunks_[node / kChunk][node % kChunk]; }
  const Node& operator[](Id node) const { return chunks_[node / kChunk][node % kChunk]; }

  // A node without relatives. Throws std::bad_alloc.
  Id create(TokenIds ids);
  // Its relatives have been told.
  void destroy(Id node) noexcept;

  // O(log children) comparisons.
  Found find_child(Id parent, TokenIds ids) const;
  // The node has the ids of no child of the parent. O(log children) comparisons.
  void add_child(Id parent, Id node) noexcept;
  void remove_child(Id node) noexcept;

  // A list begins and ends at a node of its own, its head: head.newer is the oldest.
  void make_list(Id head);
  void insert_after(Id older, Id node) noexcept;
  void insert_before(Id newer, Id node) noexcept { insert_after((*this)[newer].older, node); }
  void unlist(Id node) noexcept;
  bool is_listed(Id node) const { return (*this)[node].newer != kNone; }

  // A number that depends on the first `size` ids and little else, for statistics.
  std::uint64_t fingerprint(Id node, std::int64_t size) const;
  static std::uint64_t fingerprint(TokenIds ids);

 private:
  static constexpr Id kChunk = 4096;

  static std::uint32_t rank(Id node);  // in a treap
  Id* find_link(Id node);
  void split(Id tree, Id key, Id* less, Id* more);
  bool is_less(Id a, Id b) const;

  std::vector<std::unique_ptr<Node[]>> chunks_;  // nodes never move, so growing costs the same
  Id size_ = 0;
  Id free_ = kNone;  // by `left`
};

}  // namespace quire
