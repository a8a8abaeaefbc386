// That check() notices every kind of contradiction between a tree, its blocks and the books.
#include "quire/kv/prefix/radix_tree.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kv/prefix/prefix_rows.h"

namespace quire {

// Opens a tree for forgery: below the namespace [0 1 2 3] - [4 5 6 7], [0 1 9 9] and [8].
class RadixTreeTest : public ::testing::Test {
 protected:
  using Id = PrefixNodes::Id;
  using Ids = testing::Ids;

  RadixTreeTest() {
    blocks.resize(4);
    ledger.give_to_table(blocks, 4);
    const Ids space = {256};
    tree.insert(space, Ids{0, 1, 2, 3, 4, 5, 6, 7}, std::span(blocks).first(2));
    tree.insert(space, Ids{0, 1, 9, 9}, std::span(blocks).subspan(2, 1));
    tree.insert(space, Ids{8}, std::span(blocks).subspan(3, 1));
    ledger.drop(std::span(blocks).subspan(2), 4);  // two are idle
  }
  ~RadixTreeTest() override {
    tree.clear();
    ledger.leave(tree);
  }

  PrefixNodes::Node& of(std::size_t block) { return tree.nodes_[node(block)]; }
  Id node(std::size_t block) const { return tree.nodes_of_block_[blocks[block]]; }
  std::int64_t& size() { return tree.size_; }
  std::int64_t& num_spaces() { return tree.num_spaces_; }
  // That were ever in use at once.
  std::int64_t num_nodes() const { return tree.nodes_.size(); }
  void unlist(std::size_t block) { tree.nodes_.unlist(node(block)); }
  void list(std::size_t block) { tree.idle_.add_newest(node(block)); }

  void expect_noticed(const std::function<void()>& forge, const std::function<void()>& undo,
                      const std::string& what) {
    ASSERT_NO_THROW(ledger.check());
    forge();
    const std::string message = testing::message_of<InvariantError>([&] { ledger.check(); });
    EXPECT_NE(message.find(what), std::string::npos) << message;
    undo();
    ASSERT_NO_THROW(ledger.check());
  }
  // By a wrong value for a moment.
  template <class T>
  void expect_noticed(T& field, T wrong, const std::string& what) {
    const T right = field;
    expect_noticed([&] { field = wrong; }, [&] { field = right; }, what);
  }

  BlockLedger ledger{8, 4};
  RadixTree tree{ledger, 8, 4, 100};
  std::vector<std::int32_t> blocks;
};

TEST_F(RadixTreeTest, CheckNoticesEveryContradiction) {
  ASSERT_EQ(tree.size(), 4);
  expect_noticed(size(), std::int64_t{5}, "BlockPool.check: prefix cache: got node 1 that was not");
  expect_noticed(num_spaces(), std::int64_t{2}, "is a namespace and was not counted");
  expect_noticed(of(0).size, 3, "has children and is not full");
  expect_noticed(of(3).size, 5, "has no right size");
  expect_noticed(of(3).size, 0, "has no right size");
  expect_noticed(of(2).parent, node(0), "has another parent");
  expect_noticed(of(2).block, -1, "has no block");
  expect_noticed(of(2).block, blocks[0], "is another block's");
  expect_noticed(of(2).previous, node(0), "has another neighbour");
  expect_noticed(of(2).waits, true, "is in the wrong list");
  expect_noticed(of(2).priority, std::int8_t{1}, "is in the wrong list");
  expect_noticed([&] { unlist(3); }, [&] { list(3); }, "is idle and not listed");
  expect_noticed([&] { std::swap(of(0).ids, of(3).ids); }, [&] { std::swap(of(0).ids, of(3).ids); },
                 "is not after its sibling");
  expect_noticed([&] { ledger.give_to_cache(blocks[0]); },
                 [&] { ledger.drop_from_cache(blocks[0]); },
                 "references of caches: got 2 for block 0, expected 1");
}

TEST_F(RadixTreeTest, IdsThatBeginWithASiblingsAreNoticed) {
  PrefixNodes::Node& longer = of(2);
  PrefixNodes::Node& shorter = of(0);
  ASSERT_EQ(longer.id(1), shorter.id(1));
  expect_noticed(longer.size, 2, "is not after its sibling");
}

TEST_F(RadixTreeTest, ALastReferenceIsNoted) {
  EXPECT_EQ(ledger.num_cached(), 2);
  ledger.drop(std::span(blocks).first(2), 4);
  EXPECT_EQ(ledger.num_cached(), 4);
  EXPECT_TRUE(ledger.is_idle(blocks[0]));
  ledger.reclaim(7);
  EXPECT_EQ(ledger.num_free(), 7);
  EXPECT_EQ(tree.size(), 1);
  ledger.check();
}

// However often what somebody holds is inserted: it is found where it was inserted last.
TEST_F(RadixTreeTest, NodesAreBoundedByBlocks) {
  constexpr std::int64_t kPlaces = RadixTree::kMaxPlaces;
  const Ids ids = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::span held = std::span(blocks).first(2);
  std::vector<std::int32_t> found;
  for (std::int64_t space = 0; space < 5000; ++space) {
    tree.insert(Ids{space, 256}, ids, held);
    ASSERT_LE(tree.size(), 2 + 2 * kPlaces);
    ASSERT_LE(num_spaces(), kPlaces + 1);
    tree.evict_one();  // two were idle, and these are not
    if (space % 50 == 0) {
      ASSERT_NO_THROW(ledger.check());
    }
  }
  EXPECT_LE(num_nodes(), 2 * kPlaces * 8 + 4);
  for (std::int64_t space = 0; space < 5000; ++space) {
    found.clear();
    tree.find(Ids{space, 256}, ids, {}, &found);
    ASSERT_EQ(found.size(), space < 5000 - kPlaces ? 0u : 2u) << space;
  }
  EXPECT_EQ(tree.size(), 2 * kPlaces);
  ledger.drop(held, 4);
  while (tree.evict_one()) continue;
  EXPECT_EQ(tree.size(), 0);
  EXPECT_EQ(num_spaces(), 0);
  EXPECT_EQ(ledger.num_free(), 8);
  ledger.check();
}

// The same for other ids in one namespace, of which one place leads to the next.
TEST_F(RadixTreeTest, PlacesInOneNamespaceAreBoundedAsWell) {
  const Ids space = {256};
  for (std::int64_t id = 100; id < 3000; ++id) {
    tree.insert(space, Ids{id, id, id, id, 1, 1, 1, 1}, std::span(blocks).first(2));
    ASSERT_LE(tree.size(), 4 + 2 * RadixTree::kMaxPlaces);
  }
  ledger.check();
  // a block of its own path, as no table has it
  Ids ids;
  std::vector<std::int32_t> same;
  for (int i = 0; i < 100; ++i) {
    ids.insert(ids.end(), {7, 7, 7, 7});
    same.push_back(blocks[0]);
  }
  tree.insert(Ids{5, 256}, ids, same);
  std::vector<std::int32_t> found;
  tree.find(Ids{5, 256}, ids, {}, &found);
  EXPECT_EQ(std::ssize(found), RadixTree::kMaxPlaces);
  ledger.check();
  EXPECT_LE(num_nodes(), 2 * RadixTree::kMaxPlaces * 8 + 4);
}

// What is put back comes newest first, and what came before it stays.
TEST_F(RadixTreeTest, WhatIsPutBackLeavesNoPlace) {
  PrefixSnapshot snapshot;
  std::vector<std::vector<std::int64_t>> spaces;
  snapshot.blocks = {{blocks[0], 4}};
  for (std::int64_t i = 0; i < 40; ++i) {
    spaces.push_back({i, 256});
    snapshot.namespaces.emplace_back();
    snapshot.nodes.push_back({-1 - i, 0, 4, 0});
    snapshot.ids.insert(snapshot.ids.end(), {9, 9, 9, i});
  }
  tree.restore(snapshot, spaces);
  ledger.check();
  EXPECT_EQ(tree.size(), 4 + RadixTree::kMaxPlaces - 1);
  std::vector<std::int32_t> found;
  tree.find(spaces[39], Ids{9, 9, 9, 39}, {}, &found);
  EXPECT_EQ(found.size(), 1u);
  tree.find(spaces[0], Ids{9, 9, 9, 0}, {}, &found);
  EXPECT_EQ(found.size(), 1u);
  tree.find(Ids{256}, Ids{0, 1, 2, 3}, {}, &found);
  EXPECT_EQ(found.size(), 2u);
}

// In builds that have assertions, those of the sanitizers among them; a release goes on.
TEST_F(RadixTreeTest, ABrokenEquationEndsTheNextOperation) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  of(2).waits = true;
  EXPECT_DEBUG_DEATH(tree.insert(Ids{256}, Ids{0, 1, 2, 3}, std::span(blocks).first(1)),
                     "broken: BlockPool.check: prefix cache: got node .* in the wrong list");
  of(2).waits = false;
}

}  // namespace quire
