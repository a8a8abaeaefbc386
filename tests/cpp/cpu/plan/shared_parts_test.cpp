#include "quire/cpu/plan/shared_parts.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "support/shared_problem.h"

namespace quire::testing {
namespace {

struct Found {
  WorkPlan plan;
  SharedParts shared;

  const WorkUnit& unit_of(std::int64_t part) const { return plan.units[plan.parts[part].unit]; }
};

Found find(const PagedAttentionArgs& args) {
  Found found;
  plan_work(args, found.plan);
  find_shared_parts(args, found.plan, found.shared);
  return found;
}

// Sequences of a group and where its keys end, of each group that begins with the first key.
std::map<std::set<std::int64_t>, std::int64_t> longest(const Found& found) {
  std::map<std::set<std::int64_t>, std::int64_t> result;
  for (std::size_t g = 0; g < found.shared.ends.size(); ++g) {
    const auto group = found.shared.group(g);
    std::set<std::int64_t> seqs;
    for (const std::int64_t part : group) seqs.insert(found.unit_of(part).seq);
    EXPECT_EQ(seqs.size(), group.size());
    EXPECT_GE(group.size(), 2u);
    const KeyRange keys = found.plan.parts[group[0]].keys;
    std::int64_t& last = result[seqs];
    EXPECT_EQ(keys.begin, last) << "in the order of keys, none missing";
    last = keys.end;
  }
  return result;
}

using Seqs = std::set<std::int64_t>;

ProblemSizes sizes_of_lengths(std::vector<std::int64_t> lengths) {
  ProblemSizes sizes;
  sizes.seq_lens = std::move(lengths);
  sizes.num_kv_heads = 1;
  sizes.group = 2;
  sizes.head_dim = sizes.v_head_dim = 256;  // parts of 128 keys, for up to 2048
  return sizes;
}

TEST(SharedParts, AreFoundAsFarAsBlocksAreTheSame) {
  Problem problem(sizes_of_lengths({1200, 1000, 1100, 900}), 1);
  share_blocks(problem, 0, 2, 512);
  share_blocks(problem, 1, 3, 700);  // of which parts end at 640
  const auto groups = longest(find(problem.args()));
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups.at(Seqs{0, 2}), 512);
  EXPECT_EQ(groups.at(Seqs{1, 3}), 640);
}

// Three share the beginning, two of them more.
TEST(SharedParts, BranchAsTheTablesDo) {
  Problem problem(sizes_of_lengths({1200, 1200, 1200}), 2);
  share_blocks(problem, 0, 1, 384);
  share_blocks(problem, 0, 2, 896);
  const Found found = find(problem.args());
  ASSERT_EQ(found.shared.ends.size(), 7u);
  std::vector<std::size_t> group_sizes;
  for (std::size_t g = 0; g < 7; ++g) group_sizes.push_back(found.shared.group(g).size());
  EXPECT_EQ(group_sizes, (std::vector<std::size_t>{3, 3, 3, 2, 2, 2, 2}));
}

TEST(SharedParts, OneDifferentBlockEndsThem) {
  Problem problem(sizes_of_lengths({1200, 1200}), 3);
  share_blocks(problem, 0, 1, 1024);
  const auto columns = static_cast<std::int64_t>(problem.tables.size()) / 2;
  std::swap(problem.tables[columns + 20], problem.tables[columns + 21]);  // in part 2: keys 320..
  const Found found = find(problem.args());
  std::set<std::int64_t> begins;
  for (const std::int64_t part : found.shared.parts)
    begins.insert(found.plan.parts[part].keys.begin);
  EXPECT_EQ(begins, (std::set<std::int64_t>{0, 128, 384, 512, 640, 768, 896}));
}

// What is not read by all the rows of a part in the same way is left alone.
TEST(SharedParts, NoneWhereTheyCouldDiffer) {
  ProblemSizes sizes = sizes_of_lengths({1200, 1200});
  Problem problem(sizes, 4);
  share_blocks(problem, 0, 1, 1024);
  ASSERT_FALSE(find(problem.args()).shared.ends.empty());

  PagedAttentionArgs windowed = problem.args();
  windowed.sliding_window = 1100;
  EXPECT_TRUE(find(windowed).shared.ends.empty());
  windowed.sliding_window = 1200;
  EXPECT_FALSE(find(windowed).shared.ends.empty());

  PagedAttentionArgs placed = problem.args();
  std::vector<std::int64_t> positions(2400);
  for (std::int64_t i = 0; i < 2400; ++i) positions[i] = i % 1200;
  placed.key_positions = contiguous_index_view(positions.data(), {2, 1200});
  EXPECT_FALSE(find(placed).shared.ends.empty());
  positions[1199] = 1200;  // the first sequence has left one out
  EXPECT_TRUE(find(placed).shared.ends.empty());

  sizes.q_lens = {1, 2};
  Problem uneven(sizes, 5);
  share_blocks(uneven, 0, 1, 1024);
  EXPECT_TRUE(find(uneven.args()).shared.ends.empty());

  Problem different(sizes_of_lengths({1200, 1200}), 6);  // nothing in common
  EXPECT_TRUE(find(different.args()).shared.ends.empty());
}

// The first of two query tokens does not see the last part's last key.
TEST(SharedParts, EveryTokenSeesEveryKey) {
  ProblemSizes sizes = sizes_of_lengths({1024, 1024});
  sizes.q_lens = {2, 2};
  Problem problem(sizes, 7);
  share_blocks(problem, 0, 1, 1024);
  PagedAttentionArgs args = problem.args();
  EXPECT_EQ(longest(find(args)).at(Seqs{0, 1}), 896);
  args.causal = false;
  EXPECT_EQ(longest(find(args)).at(Seqs{0, 1}), 1024);
}

// Units of one KV head each, as five tokens of 72 heads are more rows than go together.
TEST(SharedParts, OfOneKvHeadAreSharedWithTheSameHead) {
  ProblemSizes sizes = sizes_of_lengths({1200, 1200, 1200});
  sizes.q_lens = {5, 5, 5};
  sizes.num_kv_heads = 6;
  sizes.group = 12;
  Problem problem(sizes, 9);
  share_blocks(problem, 0, 1, 1024);
  share_blocks(problem, 0, 2, 1024);
  const Found found = find(problem.args());
  ASSERT_EQ(found.plan.units.size(), 18u);
  std::set<std::int64_t> heads;
  for (std::size_t g = 0; g < found.shared.ends.size(); ++g) {
    const auto group = found.shared.group(g);
    EXPECT_EQ(group.size(), 3u);
    for (const std::int64_t part : group) {
      const std::int64_t head = found.unit_of(part).kv_head_begin;
      EXPECT_EQ(head, found.unit_of(group[0]).kv_head_begin);
      heads.insert(head);
    }
  }
  EXPECT_EQ(heads.size(), 6u);
}

// Many rows of one sequence are bound by arithmetic already.
TEST(SharedParts, ALongPromptIsLeftAlone) {
  ProblemSizes sizes = sizes_of_lengths({1200, 1200});
  sizes.q_lens = {33, 33};
  Problem problem(sizes, 8);
  share_blocks(problem, 0, 1, 1024);
  EXPECT_TRUE(find(problem.args()).shared.ends.empty());
  sizes.q_lens = {32, 32};
  Problem shorter(sizes, 8);
  share_blocks(shorter, 0, 1, 1024);
  EXPECT_EQ(longest(find(shorter.args())).at(Seqs{0, 1}), 1024);
}

}  // namespace
}  // namespace quire::testing
