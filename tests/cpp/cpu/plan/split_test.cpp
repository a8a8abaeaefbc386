#include "quire/cpu/plan/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "support/attention_problem.h"

namespace quire::testing {
namespace {

// Every key that a row sees is in one part of one unit that holds the row, for each KV head.
TEST(Split, EveryVisibleKeyOnce) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 60; ++trial) {
    ProblemSizes sizes;
    sizes.head_dim = sizes.v_head_dim = 8;
    sizes.num_kv_heads = 1 + static_cast<std::int64_t>(random() % 3);
    sizes.group = 1 + static_cast<std::int64_t>(random() % 40);
    sizes.seq_lens.clear();
    for (int seq = 0; seq < 3; ++seq) {
      const std::int64_t length = static_cast<std::int64_t>(random() % 5000);
      sizes.seq_lens.push_back(length);
      const auto tokens = static_cast<std::int64_t>(random() % 30);
      sizes.q_lens.push_back(length == 0 ? tokens : std::min(tokens, length));
    }
    Problem problem(sizes, static_cast<unsigned>(trial));
    PagedAttentionArgs args = problem.args();
    args.causal = random() % 2 == 0;
    if (random() % 2 == 0) args.sliding_window = 1 + static_cast<std::int64_t>(random() % 3000);
    if (random() % 2 == 0) args.num_sink_tokens = static_cast<std::int64_t>(random() % 2500);
    WorkPlan plan;
    plan_work(args, plan);

    std::map<std::pair<std::int64_t, std::int64_t>, int> rows;  // (row of q, KV head): units
    double cost = 0;
    std::size_t part = 0;
    for (std::size_t i = 0; i < plan.units.size(); ++i) {
      const WorkUnit& unit = plan.units[i];
      ASSERT_EQ(unit.first_part, static_cast<std::int64_t>(part));
      ASSERT_LE(unit.num_parts, kMostKeyParts);
      const KeyRange &sink_tokens = unit.keys.sink_tokens, &window = unit.keys.window;
      ASSERT_LE(sink_tokens.end, window.begin);
      std::int64_t next = sink_tokens.end > 0 ? 0 : window.begin;
      for (std::int64_t p = 0; p < unit.num_parts; ++p, ++part) {
        ASSERT_EQ(plan.parts[part].unit, static_cast<std::int64_t>(i));
        ASSERT_EQ(plan.parts[part].keys.begin, next);
        next = plan.parts[part].keys.end;
        // a part is of one range, and sees all of the sink tokens
        if (next <= sink_tokens.end) {
          ASSERT_FALSE(plan.parts[part].windowed);
          if (next == sink_tokens.end) next = window.begin;
        } else {
          ASSERT_EQ(plan.parts[part].windowed, unit.keys.windowed);
        }
        cost += plan.parts[part].cost;
      }
      ASSERT_EQ(next, window.end);
      const QueryRows query = query_rows(args, unit.seq);
      for (std::int64_t row = unit.token_begin; row < unit.token_end; ++row) {
        const VisibleKeys seen = visible_keys(args, query, row - query.begin);
        if (seen.window.begin < seen.window.end) {
          ASSERT_LE(sink_tokens.end > 0 ? 0 : window.begin, seen.window.begin);
          ASSERT_GE(window.end, seen.window.end);
        }
        ASSERT_LE(seen.sink_tokens.end, sink_tokens.end);
        for (std::int64_t h = unit.kv_head_begin; h < unit.kv_head_end; ++h) ++rows[{row, h}];
      }
    }
    ASSERT_EQ(part, plan.parts.size());
    ASSERT_EQ(cost, plan.cost);
    ASSERT_EQ(static_cast<std::int64_t>(rows.size()), problem.q.shape[0] * sizes.num_kv_heads);
    for (const auto& [row, units] : rows) ASSERT_EQ(units, 1);
  }
}

// A unit goes no further than its rows' trees show, or than where the next unit begins; the last of
// a sequence has the rest, so that every key belongs to some unit.
TEST(Split, TreesEndUnits) {
  std::mt19937 random(3);
  int shortened = 0;
  for (int trial = 0; trial < 40; ++trial) {
    ProblemSizes sizes;
    sizes.head_dim = sizes.v_head_dim = 8;
    sizes.num_kv_heads = 1 + trial % 2;
    sizes.group = 32;
    sizes.seq_lens.clear();
    for (int seq = 0; seq < 2; ++seq) {
      sizes.q_lens.push_back(static_cast<std::int64_t>(random() % 60));
      sizes.seq_lens.push_back(static_cast<std::int64_t>(random() % 300));
    }
    Problem problem(sizes, static_cast<unsigned>(trial));
    PagedAttentionArgs args = problem.args();
    std::size_t count = 0;
    for (const std::int64_t n : sizes.q_lens) count += static_cast<std::size_t>(n * n);
    const auto tree = std::make_unique<bool[]>(count);
    const bool dense = random() % 2 == 0;
    for (std::size_t i = 0; i < count; ++i) tree[i] = random() % (dense ? 4 : 200) == 0;
    args.tree_mask = std::span<const bool>(tree.get(), count);
    const WindowSides sides{static_cast<std::int64_t>(random() % 40), 9};
    if (random() % 2 == 0) args.window_sides = sides;
    WorkPlan plan;
    plan_work(args, plan);
    const std::vector<const bool*> trees = trees_of(args);
    for (const WorkUnit& unit : plan.units) {
      const QueryRows rows = query_rows(args, unit.seq);
      const std::int64_t begin = unit.token_begin - rows.begin, end = unit.token_end - rows.begin;
      const KeyRange untrimmed = visible_keys(args, rows, begin, end).window;
      std::int64_t last = 0;
      for (std::int64_t key = untrimmed.begin; key < rows.seq_len; ++key) {
        for (std::int64_t row = begin; row < end; ++row) {
          if (shows(trees[unit.seq], rows, row, key)) last = key + 1;
        }
      }
      if (unit.token_end < rows.end) {
        last = std::max(last, visible_keys(args, rows, end).window.begin);
        ASSERT_EQ(unit.keys.window.end, std::clamp(last, untrimmed.begin, untrimmed.end));
        shortened += unit.keys.window.end < untrimmed.end;
      } else {
        ASSERT_EQ(unit.keys.window.end, untrimmed.end);
      }
      ASSERT_EQ(unit.keys.window.begin, untrimmed.begin);
    }
  }
  EXPECT_GT(shortened, 20);
}

// Trees that show what causality does make the same work.
TEST(Split, AChainIsCutAsCausalRowsAre) {
  ProblemSizes sizes;
  sizes.num_kv_heads = 2;
  sizes.group = 8;
  sizes.q_lens = {1000, 5, 40};
  sizes.seq_lens = {1000, 700, 3000};
  Problem problem(sizes, 1);
  for (const std::optional<WindowSides> window :
       {std::optional<WindowSides>{}, std::optional(WindowSides{100, 0})}) {
    PagedAttentionArgs args = problem.args();
    args.window_sides = window;
    WorkPlan causal, chain;
    plan_work(args, causal);
    std::size_t count = 0;
    for (const std::int64_t n : sizes.q_lens) count += static_cast<std::size_t>(n * n);
    const auto tree = std::make_unique<bool[]>(count);
    bool* next = tree.get();
    for (const std::int64_t n : sizes.q_lens) {
      for (std::int64_t i = 0; i < n * n; ++i) *next++ = i % n <= i / n;
    }
    args.tree_mask = std::span<const bool>(tree.get(), count);
    plan_work(args, chain);
    ASSERT_EQ(chain.cost, causal.cost);
    ASSERT_EQ(chain.parts.size(), causal.parts.size());
    for (std::size_t i = 0; i < chain.parts.size(); ++i) {
      ASSERT_EQ(chain.parts[i].unit, causal.parts[i].unit);
      ASSERT_EQ(chain.parts[i].keys.begin, causal.parts[i].keys.begin);
      ASSERT_EQ(chain.parts[i].keys.end, causal.parts[i].keys.end);
    }
  }
}

// Of 16,384 keys a part would have 256, and the two ranges would be cut into 65.
TEST(Split, TwoRangesHaveRoomForTheirParts) {
  ProblemSizes sizes;
  sizes.num_kv_heads = sizes.group = 1;
  sizes.head_dim = sizes.v_head_dim = 128;
  sizes.seq_lens = {20'000};
  Problem problem(sizes, 1);
  PagedAttentionArgs args = problem.args();
  args.sliding_window = 16'284;
  args.num_sink_tokens = 100;
  WorkPlan plan;
  plan_work(args, plan);
  ASSERT_EQ(plan.units.size(), 1u);
  EXPECT_LE(plan.units[0].num_parts, kMostKeyParts);
  EXPECT_EQ(plan.units[0].keys.sink_tokens.end, 100);
  EXPECT_EQ(plan.units[0].keys.window.begin, 3716);
}

// The cut of a sequence does not look at the others.
TEST(Split, DependsOnTheSequenceAlone) {
  ProblemSizes sizes;
  sizes.seq_lens = {3000, 100, 9000};
  sizes.q_lens = {1, 4, 64};
  Problem batch(sizes, 1);
  WorkPlan together;
  plan_work(batch.args(), together);
  for (std::size_t seq = 0; seq < 3; ++seq) {
    ProblemSizes one = sizes;
    one.seq_lens = {sizes.seq_lens[seq]};
    one.q_lens = {sizes.q_lens[seq]};
    Problem alone(one, 2);
    WorkPlan plan;
    plan_work(alone.args(), plan);
    std::size_t i = 0;
    for (const WorkUnit& unit : together.units) {
      if (unit.seq != static_cast<std::int64_t>(seq)) continue;
      ASSERT_LT(i, plan.units.size());
      const WorkUnit& own = plan.units[i++];
      EXPECT_EQ(unit.part_keys, own.part_keys);
      EXPECT_EQ(unit.num_parts, own.num_parts);
      EXPECT_EQ(unit.keys.window.begin, own.keys.window.begin);
      EXPECT_EQ(unit.keys.window.end, own.keys.window.end);
      EXPECT_EQ(unit.token_end - unit.token_begin, own.token_end - own.token_begin);
    }
    EXPECT_EQ(i, plan.units.size());
  }
}

// Parts on a grid end at its multiples or where what is seen does, hold all that some row sees, and
// are one for each unit where they would be many.
TEST(Split, PartsOnAGridEndThereWhateverTheRows) {
  constexpr std::int64_t kGrid = 1024;
  for (const std::int64_t tokens : {1, 9, 3000}) {
    for (const std::int64_t window : {0, 100, 1500}) {
      ProblemSizes sizes;
      sizes.seq_lens = {5000};
      sizes.q_lens = {tokens};
      sizes.head_dim = sizes.v_head_dim = 8;
      Problem problem(sizes, 1);
      PagedAttentionArgs args = problem.args();
      if (window > 0) args.sliding_window = window;
      args.num_sink_tokens = window > 0 ? 3 : 0;
      WorkPlan plan;
      plan_work(args, plan, kGrid);
      for (const WorkUnit& unit : plan.units) {
        std::vector<bool> covered(5000);
        for (std::int64_t i = 0; i < unit.num_parts; ++i) {
          const WorkPart& part = plan.parts[unit.first_part + i];
          ASSERT_TRUE(part.is_on_grid);
          ASSERT_LT(part.keys.begin, part.keys.end);
          if (unit.num_parts > 1) {
            ASSERT_EQ(part.keys.begin / kGrid, (part.keys.end - 1) / kGrid);
          }
          for (std::int64_t key = part.keys.begin; key < part.keys.end; ++key) {
            ASSERT_FALSE(covered[key]);
            covered[key] = true;
          }
        }
        for (const KeyRange& seen : {unit.keys.sink_tokens, unit.keys.window}) {
          for (std::int64_t key = seen.begin; key < seen.end; ++key) ASSERT_TRUE(covered[key]);
        }
      }
      const bool are_many = tokens == 3000 && window != 100;
      ASSERT_EQ(plan.parts.size() == plan.units.size(), are_many) << tokens << " " << window;
    }
  }
}

// On a grid a short sequence is cut by KV heads, which is all that there is to deal out; not into
// single ones, as the rows of two share a softmax.
TEST(Split, FewPartsOnAGridAreCutByHeads) {
  for (const auto& [keys, heads] : {std::pair{300, 2}, {2048, 2}, {4096, 4}, {9000, 8}}) {
    ProblemSizes sizes;
    sizes.seq_lens = {keys};
    sizes.num_kv_heads = 8;
    sizes.head_dim = sizes.v_head_dim = 8;
    Problem problem(sizes, 1);
    WorkPlan plan;
    plan_work(problem.args(), plan, 1024);
    for (const WorkUnit& unit : plan.units) EXPECT_EQ(unit.num_heads(), heads) << keys;
  }
}

}  // namespace
}  // namespace quire::testing
