// What of a prefix a window needs: examples, and every case of a few columns beside plain_cut.
#include "quire/kv/prefix/prefix_window.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kv/prefix/plain_window.h"

namespace quire::testing {
namespace {

using Columns = std::vector<std::int32_t>;

TEST(PrefixWindow, TheExampleOfTheHeader) {
  const Columns all = {5, -1, -1, 2, 8};
  Columns columns = all;
  EXPECT_TRUE(cut_to_window({8, 1}, 4, 2, &columns));
  EXPECT_EQ(columns, all);
  columns = all;
  EXPECT_FALSE(cut_to_window({12, 1}, 4, 0, &columns));  // the 11 tokens before token 20
  EXPECT_EQ(columns, Columns({5}));
  columns = all;
  EXPECT_FALSE(cut_to_window({8, 5}, 4, 2, &columns));  // a sink token is missing
  EXPECT_EQ(columns, Columns({5}));
}

TEST(PrefixWindow, WhatIsNotSeenIsAHole) {
  Columns columns = {1, 2, 3, 4, 5};
  EXPECT_FALSE(cut_to_window({5, 0}, 4, 0, &columns));  // tokens 16 to 19 before token 20
  EXPECT_EQ(columns, Columns({-1, -1, -1, -1, 5}));
  columns = {1, 2, 3, 4, 5};
  EXPECT_FALSE(cut_to_window({6, 2}, 4, 0, &columns));
  EXPECT_EQ(columns, Columns({1, -1, -1, 4, 5}));
  columns = {1, 2};
  EXPECT_TRUE(cut_to_window({1 << 30, 9}, 4, 3, &columns));
  EXPECT_EQ(columns, Columns({1, 2}));
}

TEST(PrefixWindow, EveryCaseOfFewColumns) {
  for (const std::int64_t block_size : {1, 2, 3}) {
    for (std::int64_t n = 0; n <= 5; ++n) {
      for (int holes = 0; holes < 1 << n; ++holes) {
        Columns all;
        for (int i = 0; i < n; ++i) all.push_back((holes >> i & 1) != 0 ? kHole : 10 + i);
        for (std::int64_t rows = 0; rows < block_size; ++rows) {
          for (std::int64_t size = 1; size <= n * block_size + 3; ++size) {
            for (std::int64_t sinks = 0; sinks <= 4; ++sinks) {
              const PrefixWindow window{size, sinks};
              const PlainCut expected = plain_cut(window, block_size, rows, all);
              Columns columns = all;
              const bool takes_rows = cut_to_window(window, block_size, rows, &columns);
              ASSERT_EQ(columns, expected.columns);
              ASSERT_EQ(std::ssize(columns) * block_size + (takes_rows ? rows : 0),
                        expected.tokens);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quire::testing
