// Which node goes first, against one list that is searched.
#include "quire/kv/prefix/idle_lists.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace quire::testing {
namespace {

using Id = PrefixNodes::Id;

TEST(IdleLists, TheLowestPriorityGoesFirstAndOfItTheOldest) {
  std::mt19937 random(3);
  PrefixNodes nodes;
  IdleLists lists(nodes);
  EXPECT_EQ(lists.oldest(), PrefixNodes::kNone);
  std::vector<Id> all, plain;  // the second as they would go, but for their priorities
  for (const int priority : {-100, -99, -1, 0, 1, 27, 28, 29, 99, 100}) {
    lists.allow(priority);
    for (int i = 0; i < 4; ++i) {
      all.push_back(nodes.create(std::vector<std::int64_t>{7}));
      nodes[all.back()].priority = static_cast<std::int8_t>(priority);
    }
  }
  const auto priority = [&](Id node) { return nodes[node].priority; };
  for (int step = 0; step < 20'000; ++step) {
    const Id node = all[random() % all.size()];
    if (std::erase(plain, node) > 0) {
      nodes.unlist(node);
    } else if (random() % 2 == 0) {
      lists.add_newest(node);
      plain.push_back(node);
    } else {
      lists.add_oldest(node);
      plain.insert(plain.begin(), node);
    }
    const auto first = std::ranges::min_element(plain, {}, priority);
    ASSERT_EQ(lists.oldest(), first == plain.end() ? PrefixNodes::kNone : *first);
  }
}

TEST(IdleLists, HeadsComeFromTheHighestPriorityOn) {
  PrefixNodes nodes;
  IdleLists lists(nodes);
  for (const int priority : {5, -100, 100, 5}) lists.allow(priority);
  std::vector<int> priorities;
  lists.for_heads([&](Id head) { priorities.push_back(nodes[head].priority); });
  EXPECT_EQ(priorities, (std::vector<int>{100, 5, -100}));
}

}  // namespace
}  // namespace quire::testing
