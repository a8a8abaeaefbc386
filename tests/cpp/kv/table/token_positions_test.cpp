// Where the tokens of a table stand: worked examples, against a plain list, and that check notices.
#include "quire/kv/table/token_positions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "quire/kv/ledger/block_ledger.h"

namespace quire {

using List = std::vector<std::int64_t>;

class TokenPositionsTest : public ::testing::Test {
 protected:
  auto& listed() { return positions.listed_; }
  auto& num_removed() { return positions.num_removed_; }
  // "" where check finds nothing.
  std::string flaw(std::int64_t num_tokens) const {
    try {
      positions.check(num_tokens);
    } catch (const InvariantError& error) {
      return error.what();
    }
    return "";
  }
  List all(std::int64_t num_tokens) const {
    List list;
    for (std::int64_t token = 0; token < num_tokens; ++token) list.push_back(positions.of(token));
    return list;
  }

  TokenPositions positions;
};

TEST_F(TokenPositionsTest, AreTheIndicesAsLongAsNoneWasTakenOut) {
  positions.reserve(0, 5);
  positions.grow(0, 5);
  EXPECT_FALSE(positions.are_listed());
  EXPECT_EQ(all(5), (List{0, 1, 2, 3, 4}));
  EXPECT_EQ(positions.next(5), 5);
  EXPECT_EQ(positions.token_from(-3, 5), 0);
  EXPECT_EQ(positions.token_from(3, 5), 3);
  EXPECT_EQ(positions.token_from(9, 5), 5);
  positions.truncate(5, 2);
  EXPECT_EQ(positions.next(2), 2);
  EXPECT_EQ(flaw(2), "");
}

TEST_F(TokenPositionsTest, StayWhatTheyWere) {
  positions.begin(3, 8, {1, 4, 6});
  EXPECT_TRUE(positions.are_listed());
  EXPECT_EQ(positions.next(3), 8);
  positions.reserve(3, 2);
  positions.grow(3, 2);
  EXPECT_EQ(all(5), (List{1, 4, 6, 8, 9}));
  EXPECT_EQ(positions.next(5), 10);
  EXPECT_EQ(positions.token_from(5, 5), 2);
  EXPECT_EQ(positions.token_from(10, 5), 5);
  EXPECT_EQ(flaw(5), "");
  positions.truncate(5, 5);
  EXPECT_EQ(positions.next(5), 10);
  positions.truncate(5, 4);  // the next token takes the place of the first that goes
  EXPECT_EQ(positions.next(4), 9);
  positions.truncate(4, 0);
  EXPECT_EQ(positions.next(0), 1);
  positions.restart();
  EXPECT_EQ(positions.next(0), 0);
  EXPECT_EQ(flaw(0), "");
}

TEST_F(TokenPositionsTest, AreListedWhereOnlyTheNextStandsLater) {
  positions.begin(3, 7, {});
  EXPECT_EQ(all(3), (List{0, 1, 2}));
  EXPECT_EQ(positions.next(3), 7);
  positions.begin(3, 3, {0, 1, 2});  // and not where nothing was taken out
  EXPECT_FALSE(positions.are_listed());
  EXPECT_EQ(flaw(3), "");
}

TEST_F(TokenPositionsTest, RandomChangesAgreeWithAPlainList) {
  std::mt19937 random(5);
  List list;
  std::int64_t next = 0;
  for (int step = 0; step < 3000; ++step) {
    const auto size = std::ssize(list);
    if (random() % 3 != 0) {
      const std::int64_t n = random() % 4;
      positions.reserve(size, n);
      positions.grow(size, n);
      for (std::int64_t i = 0; i < n; ++i) list.push_back(next++);
    } else if (random() % 2 == 0) {
      const std::int64_t left = random() % (size + 1);
      positions.truncate(size, left);
      if (left < size) next = list[left];
      list.resize(left);
    } else {
      std::erase_if(list, [&](std::int64_t) { return random() % 3 == 0; });
      positions.begin(std::ssize(list), next, List(list));
    }
    ASSERT_EQ(flaw(std::ssize(list)), "");
    ASSERT_EQ(all(std::ssize(list)), list);
    ASSERT_EQ(positions.next(std::ssize(list)), next);
    const std::int64_t position = random() % 50;
    ASSERT_EQ(positions.token_from(position, std::ssize(list)),
              std::lower_bound(list.begin(), list.end(), position) - list.begin());
  }
}

TEST_F(TokenPositionsTest, ContradictionsAreNoticed) {
  positions.begin(3, 8, {1, 4, 6});
  EXPECT_EQ(flaw(4), "BlockTable.check: positions: got 3, expected 4");
  listed()[1] = 1;
  EXPECT_EQ(flaw(3), "BlockTable.check: position: got 1, expected at least 2");
  listed() = {1, 4, 9};
  EXPECT_EQ(flaw(3), "BlockTable.check: position: got 9, expected below 8");
  num_removed() = -1;
  EXPECT_EQ(flaw(3), "BlockTable.check: tokens taken out: got -1, expected >= 0");
}

}  // namespace quire
