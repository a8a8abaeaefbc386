#include "quire/cpu/plan/stretches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "support/attention_problem.h"

namespace quire::testing {
namespace {

struct Case {
  Problem problem;
  PagedAttentionArgs args;
  WorkPlan plan;
  std::int64_t most_blocks;

  Case(ProblemSizes sizes, unsigned seed, std::int64_t most)
      : problem(std::move(sizes), seed), args(problem.args()), most_blocks(most) {}
};

std::int64_t least_blocks(std::int64_t block_size) { return (2 * kPieceKeys - 2) / block_size + 2; }

// A part's pieces are its keys in order, each from where a tile begins; a stretch has one piece of
// a part, all blocks that its pieces read, no others, none twice, and not too many.
void expect_whole(const Case& c) {
  const StretchPlan stretches = plan_stretches(c.args, c.plan, c.most_blocks);
  ASSERT_EQ(stretches.end.size(), stretches.blocks.size());
  ASSERT_EQ(stretches.end.back(), static_cast<std::int64_t>(stretches.pieces.size()));
  std::vector<std::int64_t> next;
  for (const WorkPart& part : c.plan.parts) next.push_back(part.keys.begin);
  std::vector<int> pieces_of(c.plan.parts.size(), 0);
  const std::int64_t block_size = sizes_of(c.args).block_size;
  std::int64_t piece = 0;
  for (std::size_t s = 0; s < stretches.end.size(); ++s) {
    std::set<std::int64_t> parts;
    std::set<std::int32_t> read;
    for (; piece < stretches.end[s]; ++piece) {
      const auto [index, keys] = stretches.pieces[piece];
      ASSERT_TRUE(parts.insert(index).second);
      ASSERT_EQ(keys.begin, next[index]);
      ASSERT_EQ((keys.begin - c.plan.parts[index].keys.begin) % kPieceKeys, 0);
      next[index] = keys.end;
      ++pieces_of[index];
      const std::int64_t seq = c.plan.units[c.plan.parts[index].unit].seq;
      for (std::int64_t key = keys.begin; key < keys.end; ++key) {
        read.insert(static_cast<std::int32_t>(c.args.block_tables.at(seq, key / block_size)));
      }
    }
    const std::vector<std::int32_t>& blocks = stretches.blocks[s];
    ASSERT_EQ(std::set(blocks.begin(), blocks.end()), read);
    ASSERT_EQ(blocks.size(), read.size());
    ASSERT_LE(static_cast<std::int64_t>(blocks.size()), c.most_blocks);
  }
  for (std::size_t i = 0; i < next.size(); ++i) {
    ASSERT_EQ(next[i], c.plan.parts[i].keys.end);
    ASSERT_GE(pieces_of[i], 1);
  }
}

TEST(Stretches, EveryKeyOfEveryPartOnceAndInOrder) {
  std::mt19937 random(1);
  for (unsigned trial = 0; trial < 60; ++trial) {
    ProblemSizes sizes;
    sizes.head_dim = sizes.v_head_dim = 8;
    sizes.num_kv_heads = 1 + static_cast<std::int64_t>(random() % 2);
    sizes.group = 1 + static_cast<std::int64_t>(random() % 40);
    sizes.block_size = std::vector<std::int64_t>{1, 7, 16, 128, 300}[random() % 5];
    sizes.seq_lens.clear();
    for (int seq = 0; seq < 4; ++seq) {
      const std::int64_t length = static_cast<std::int64_t>(random() % 4000);
      sizes.seq_lens.push_back(length);
      const auto tokens = static_cast<std::int64_t>(random() % 30);
      sizes.q_lens.push_back(std::min(tokens, length));
    }
    const auto more = static_cast<std::int64_t>(random() % 3 * (random() % 100));
    Case c(sizes, trial, least_blocks(sizes.block_size) + more);
    c.args.causal = random() % 2 == 0;
    if (random() % 2 == 0) c.args.sliding_window = 1 + static_cast<std::int64_t>(random() % 3000);
    plan_work(c.args, c.plan);
    ASSERT_NO_FATAL_FAILURE(expect_whole(c)) << "trial " << trial;
  }
}

// However many sequences read a block, and however many units of each, it is in one stretch.
TEST(Stretches, WhatSequencesShareIsBroughtInOnce) {
  ProblemSizes sizes;
  sizes.seq_lens = {2048, 2048, 2048};
  sizes.q_lens = {100, 1, 300};
  Case c(sizes, 1, 40);
  std::vector<std::int64_t> table(128);
  for (std::int64_t column = 0; column < 128; ++column) {
    table[column] = c.args.block_tables.at(0, column);
  }
  std::vector<std::int64_t> same;
  for (int seq = 0; seq < 3; ++seq) same.insert(same.end(), table.begin(), table.end());
  c.args.block_tables = contiguous_index_view(same.data(), {3, 128});
  plan_work(c.args, c.plan);
  ASSERT_NO_FATAL_FAILURE(expect_whole(c));
  std::size_t total = 0;
  for (const auto& blocks : plan_stretches(c.args, c.plan, 40).blocks) total += blocks.size();
  EXPECT_EQ(total, 128u);
}

// Blocks beyond k_cache's are open ones: always in memory, and in no stretch.
TEST(Stretches, OpenBlocksAreInNone) {
  ProblemSizes sizes;
  sizes.seq_lens = {1000, 70};
  Case c(sizes, 1, least_blocks(sizes.block_size));
  plan_work(c.args, c.plan);
  const std::int64_t columns = c.args.block_tables.shape[1];
  std::vector<std::int64_t> tables;
  std::set<std::int32_t> sealed;
  const std::int64_t num_blocks = sizes_of(c.args).num_blocks;
  for (std::int64_t seq = 0; seq < 2; ++seq) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const bool used = column * sizes.block_size < sizes.seq_lens[seq];
      const bool open = column % 3 == 1;
      const std::int64_t block = c.args.block_tables.at(seq, column);
      tables.push_back(used && open ? num_blocks + column : block);
      if (used && !open) sealed.insert(static_cast<std::int32_t>(block));
    }
  }
  c.args.block_tables = contiguous_index_view(tables.data(), {2, columns});
  const StretchPlan stretches = plan_stretches(c.args, c.plan, c.most_blocks);
  std::set<std::int32_t> found;
  for (const auto& blocks : stretches.blocks) found.insert(blocks.begin(), blocks.end());
  EXPECT_EQ(found, sealed);
  std::int64_t keys = 0;
  for (const WorkPiece& piece : stretches.pieces) keys += piece.keys.end - piece.keys.begin;
  EXPECT_EQ(keys, 1070);
}

TEST(Stretches, NoQueriesAndNoKeys) {
  for (const std::int64_t queries : {0, 3}) {
    ProblemSizes sizes;
    sizes.seq_lens = {0};
    sizes.q_lens = {queries};
    Case c(sizes, 1, least_blocks(sizes.block_size));
    plan_work(c.args, c.plan);
    ASSERT_NO_FATAL_FAILURE(expect_whole(c));
  }
}

}  // namespace
}  // namespace quire::testing
