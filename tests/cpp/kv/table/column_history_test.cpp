// The books of one table about what is open, and was: worked examples, and that check notices.
#include "quire/kv/table/column_history.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quire/kv/ledger/block_ledger.h"

namespace quire {

class ColumnHistoryTest : public ::testing::Test {
 protected:
  auto& until() { return history.until_; }
  auto& horizon() { return history.horizon_; }
  // "" where check finds nothing.
  std::string flaw(std::int64_t num_tokens) const {
    try {
      history.check(num_tokens);
    } catch (const InvariantError& error) {
      return error.what();
    }
    return "";
  }
  // Columns of blocks of 16, the last two of which stay open, as append does for one token.
  void append() {
    const std::int64_t columns = num_tokens / 16 + 1;
    if (num_tokens % 16 == 0) history.push(static_cast<std::int32_t>(100 + columns - 1));
    const std::int64_t first_open = columns - history.num_open();
    if (columns - 2 > first_open) history.seal(first_open, columns - 2 - first_open, num_tokens);
    ++num_tokens;
    history.drop_first(history.advance(num_tokens - ColumnHistory::kTokens));
  }

  ColumnHistory history{16, 2};
  std::int64_t num_tokens = 0;
};

TEST_F(ColumnHistoryTest, ColumnsStayPinnedFor64Tokens) {
  for (int i = 0; i < 400; ++i) {
    append();
    ASSERT_EQ(flaw(num_tokens), "");
    const std::int64_t columns = (num_tokens + 15) / 16;
    ASSERT_EQ(history.num_open(), std::min<std::int64_t>(columns, 2));
    // column c is open until (c + 2) * 16 tokens, and needed for 64 more
    std::int64_t pinned = 0;
    for (std::int64_t c = 0; c < columns; ++c) pinned += (c + 2) * 16 >= num_tokens - 64;
    ASSERT_EQ(history.num_pinned(), pinned);
    ASSERT_LE(pinned, most_pinned(16, 2));
    ASSERT_EQ(history.first_pinned_at(num_tokens), columns - pinned);
    ASSERT_EQ(history.ids().back(), 100 + columns - 1);
  }
  EXPECT_EQ(history.horizon(), 400 - 64);
}

TEST_F(ColumnHistoryTest, TruncatedColumnsAreOpenAgain) {
  while (num_tokens < 100) append();
  ASSERT_EQ(history.num_pinned(), 6);  // but for column 0
  ASSERT_EQ(history.num_open(), 2);
  EXPECT_EQ(history.truncate(80, 4), 2);  // columns 3 and 4, instead of 5 and 6
  EXPECT_EQ(history.num_open(), 2);
  EXPECT_EQ(history.horizon(), 36);
  EXPECT_EQ(flaw(80), "");
  EXPECT_EQ(history.truncate(36, 2), 2);  // 1 and 2
  EXPECT_EQ(history.num_open(), 2);
  EXPECT_EQ(history.truncate(20, 1), 0);  // 0 stays sealed
  EXPECT_EQ(history.horizon(), 20);
  EXPECT_EQ(flaw(20), "");
}

TEST_F(ColumnHistoryTest, WhatIsReplacedComesBackOrPasses) {
  history.begin(20);
  history.replace({7, 20});
  history.push(101);
  EXPECT_EQ(flaw(21), "");
  history.advance(21 - 64);
  EXPECT_TRUE(history.keeps_replaced());
  history.advance(84 - 64);
  EXPECT_TRUE(history.keeps_replaced());
  history.advance(85 - 64);
  EXPECT_FALSE(history.keeps_replaced());
  EXPECT_EQ(flaw(85), "BlockTable.check: tokens of a replaced block: got 20, expected 21 to 84");
  history.truncate(20, 0);
  EXPECT_FALSE(history.replaced().is_there());
}

// Also where all blocks are to stay open.
TEST(ColumnHistory, AnyNumberMayStay) {
  const ColumnHistory history(16, std::int64_t{1} << 62);
  EXPECT_EQ(history.first_pinned_at(1 << 30), 0);
  EXPECT_GT(history.until(1 << 30, 0, 1 << 30), std::int64_t{1} << 40);
}

TEST_F(ColumnHistoryTest, CheckFindsContradictions) {
  while (num_tokens < 100) append();
  ASSERT_EQ(until(), (std::vector<std::int64_t>{48, 64, 80, 96}));
  EXPECT_EQ(flaw(100), "");
  EXPECT_EQ(flaw(97), "");
  EXPECT_EQ(flaw(96), "BlockTable.check: until: got 96, expected 80 to 95");
  EXPECT_EQ(flaw(80), "BlockTable.check: pinned columns: got 6, expected at most 5");
  until()[2] = 60;
  EXPECT_EQ(flaw(100), "BlockTable.check: until: got 60, expected 64 to 99");
  until()[2] = 64;
  horizon() = 49;
  EXPECT_EQ(flaw(100), "BlockTable.check: until: got 48, expected 49 to 99");
  horizon() = 101;
  EXPECT_EQ(flaw(100), "BlockTable.check: horizon: got 101, expected 0 to 100");
  horizon() = 36;
  until().resize(7);
  EXPECT_EQ(flaw(100), "BlockTable.check: sealed columns: got 7, expected at most 6");
}

}  // namespace quire
