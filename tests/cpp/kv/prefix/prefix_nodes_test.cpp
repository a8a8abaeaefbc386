// Siblings in order, against a sorted map, and ids of both widths.
#include "quire/kv/prefix/prefix_nodes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "kv/prefix/prefix_rows.h"

namespace quire::testing {
namespace {

using Id = PrefixNodes::Id;

Ids ids_of(const PrefixNodes& nodes, Id node) {
  Ids ids;
  for (std::int64_t i = 0; i < nodes[node].size; ++i) ids.push_back(nodes[node].id(i));
  return ids;
}

// The neighbour in the map that shares more, the one before where both share as many.
PrefixNodes::Found find_in(const std::map<Ids, Id>& sorted, const Ids& ids) {
  PrefixNodes::Found before, after;
  auto next = sorted.upper_bound(ids);
  if (next != sorted.end()) {
    after = {next->second, static_cast<std::int64_t>(common_prefix(next->first, ids))};
  }
  if (next != sorted.begin()) {
    --next;
    before = {next->second, static_cast<std::int64_t>(common_prefix(next->first, ids))};
  }
  return before.common >= after.common ? before : after;
}

TEST(PrefixNodes, ChildrenAreFoundAsInASortedMap) {
  std::mt19937 random(1);
  PrefixNodes nodes;
  const Id parent = nodes.create({});
  std::map<Ids, Id> sorted;
  const auto some_ids = [&] {
    Ids ids(1 + random() % 5);
    for (std::int64_t& id : ids) id = random() % 3 == 0 ? std::int64_t{1} << 40 : random() % 2;
    return ids;
  };
  for (int step = 0; step < 20000; ++step) {
    const Ids ids = some_ids();
    if (sorted.count(ids) == 0 && random() % 2 == 0) {
      const Id node = nodes.create(ids);
      ASSERT_EQ(ids_of(nodes, node), ids);
      nodes.add_child(parent, node);
      sorted[ids] = node;
    } else if (!sorted.empty() && random() % 2 == 0) {
      auto gone = sorted.lower_bound(ids);
      if (gone == sorted.end()) gone = sorted.begin();
      nodes.remove_child(gone->second);
      nodes.destroy(gone->second);
      sorted.erase(gone);
    }
    const Ids wanted = some_ids();
    const PrefixNodes::Found expected = find_in(sorted, wanted);
    const PrefixNodes::Found found = nodes.find_child(parent, wanted);
    ASSERT_EQ(found.common, expected.common);
    ASSERT_TRUE(found.node == expected.node || expected.common == 0);
  }
}

// Ids that rise, the worst order for a tree that does not balance itself.
TEST(PrefixNodes, ATreeOfManyChildrenStaysLow) {
  PrefixNodes nodes;
  const Id parent = nodes.create({});
  constexpr int kChildren = 20000;
  for (std::int64_t i = 0; i < kChildren; ++i) nodes.add_child(parent, nodes.create(Ids{7, i}));
  std::vector<std::pair<Id, int>> stack = {{nodes[parent].child, 1}};
  int count = 0;
  int deepest = 0;
  while (!stack.empty()) {
    const auto [node, depth] = stack.back();
    stack.pop_back();
    if (node == PrefixNodes::kNone) continue;
    ++count;
    deepest = std::max(deepest, depth);
    stack.emplace_back(nodes[node].left, depth + 1);
    stack.emplace_back(nodes[node].right, depth + 1);
  }
  EXPECT_EQ(count, kChildren);
  EXPECT_LT(deepest, 60);  // 14 at least; some 30 are expected
}

TEST(PrefixNodes, AFingerprintIsOfTheIdsNotOfTheirWidth) {
  PrefixNodes nodes;
  const Id narrow = nodes.create(Ids{1, 2, 3});
  const Id wide = nodes.create(Ids{1, 2, std::int64_t{1} << 50});
  EXPECT_FALSE(nodes[narrow].wide);
  EXPECT_TRUE(nodes[wide].wide);
  EXPECT_EQ(nodes.fingerprint(narrow, 2), nodes.fingerprint(wide, 2));
  EXPECT_EQ(nodes.fingerprint(narrow, 2), PrefixNodes::fingerprint(Ids{1, 2}));
  EXPECT_NE(nodes.fingerprint(narrow, 3), nodes.fingerprint(wide, 3));
  EXPECT_NE(PrefixNodes::fingerprint(Ids{0}), PrefixNodes::fingerprint(Ids{0, 0}));
}

}  // namespace
}  // namespace quire::testing
