// Prefixes that sequences share: computed once, exactly, and with the bits of each alone.
#include "quire/cpu/plan/work_items.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "quire/cpu/attention/attention_launch.h"
#include "quire/ops/attention/index_snapshot.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"
#include "support/shared_problem.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(All, OnInstructionSet, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

// Families of sequences over a common beginning, some of which branch later.
Problem random_families(std::mt19937& random) {
  ProblemSizes sizes;
  const std::int64_t tokens = one_of<std::int64_t>(random, {1, 1, 1, 2, 5});
  const int batch = one_of(random, {4, 5, 7});
  sizes.seq_lens.clear();
  for (int seq = 0; seq < batch; ++seq) {
    sizes.seq_lens.push_back(1100 + static_cast<std::int64_t>(random() % 400));
    sizes.q_lens.push_back(random() % 10 == 0 ? 3 : tokens);
  }
  const auto heads =
      one_of<std::pair<int, int>>(random, {{1, 1}, {2, 1}, {2, 4}, {1, 6}, {1, 16}, {3, 2}});
  sizes.num_kv_heads = heads.first;
  sizes.group = heads.second;
  sizes.head_dim = one_of<std::int64_t>(random, {128, 256, 80});
  sizes.v_head_dim = one_of<std::int64_t>(random, {128, 256, 72});
  sizes.block_size = one_of<std::int64_t>(random, {16, 32, 5});
  sizes.q_dtype = one_of(random, {DType::float32, DType::bfloat16});
  sizes.k_dtype = sizes.v_dtype = one_of(random, {DType::float32, DType::float16, DType::bfloat16});
  sizes.layout = one_of(random, {Layout::NHD, Layout::HND});
  Problem problem(sizes, random());
  const auto families = static_cast<int>(1 + random() % 2);
  for (int seq = families; seq < batch; ++seq) {
    share_blocks(problem, seq % families, seq, one_of<std::int64_t>(random, {400, 1000, 1024}));
  }
  return problem;
}

void expect_bits_of_each_alone(Problem& problem, const PagedAttentionArgs& args) {
  const std::vector<std::byte> expected = problem.out.bytes;
  const std::vector<float> expected_lse = problem.lse;
  const std::int64_t row_bytes = args.out.strides[0];
  const std::int64_t num_heads = args.q.shape[1];
  for (std::size_t seq = 0; seq < problem.sizes.seq_lens.size(); ++seq) {
    const AloneInBatch alone(problem, args, seq);
    const std::int64_t begin = alone.begin(), rows = alone.rows();
    paged_attention(alone.args(), Implementation::fused, 1);
    ASSERT_TRUE(std::equal(problem.out.bytes.begin(), problem.out.bytes.begin() + rows * row_bytes,
                           expected.begin() + begin * row_bytes))
        << "sequence " << seq;
    ASSERT_TRUE(std::equal(problem.lse.begin(), problem.lse.begin() + rows * num_heads,
                           expected_lse.begin() + begin * num_heads))
        << "sequence " << seq;
  }
}

TEST_P(OnInstructionSet, SharedPrefixesAreExactAndHaveTheBitsOfEachAlone) {
  int num_shared = 0;
  for (unsigned seed = 0; seed < num_cases(10); ++seed) {
    std::mt19937 random(seed);
    Problem problem = random_families(random);
    PagedAttentionArgs args = problem.args();
    const std::int64_t num_heads = args.q.shape[1];
    Array slopes = problem.filled(DType::float32, {num_heads}, 0.1f);
    Array sinks = problem.filled(DType::float32, {num_heads}, 2.0f);
    args.causal = random() % 4 != 0;
    bool causal_of_each[64] = {};
    for (bool& causal : causal_of_each) causal = random() % 2 == 0;
    if (random() % 3 == 0) {
      args.causal_of_each = std::span(causal_of_each).first(problem.sizes.seq_lens.size());
    }
    bool trees[7 * 5 * 5];  // of up to 7 sequences of up to 5 tokens
    std::size_t tree_size = 0;
    for (const std::int64_t n : problem.sizes.q_lens) tree_size += static_cast<std::size_t>(n * n);
    for (bool& sees : trees) sees = random() % 2 == 0;
    if (random() % 3 == 0) args.tree_mask = std::span(trees).first(tree_size);
    if (random() % 3 == 0) args.softcap = 30.0;
    if (random() % 3 == 0) args.alibi_slopes = slopes.view();
    if (random() % 3 == 0) args.sinks = sinks.view();
    if (random() % 4 == 0) args.sliding_window = one_of<std::int64_t>(random, {300, 1300});
    if (random() % 4 == 0) {
      args.sliding_window = std::nullopt;
      args.window_sides = WindowSides{-1, one_of<std::int64_t>(random, {0, 300})};
    }
    if (random() % 4 == 0) args.num_sink_tokens = one_of<std::int64_t>(random, {20, 260});
    SCOPED_TRACE(seed);
    WorkPlan plan;
    SharedParts shared;
    plan_work(args, plan);
    find_shared_parts(args, plan, shared);
    num_shared += !shared.ends.empty();
    expect_answer(problem, args, Implementation::fused, oracle(problem, args), 2e-5);
    if (HasFatalFailure()) return;
    const std::vector<std::byte> expected = problem.out.bytes;
    for (const int threads : {1, 2, 5}) {
      paged_attention(args, Implementation::fused, threads);
      ASSERT_EQ(problem.out.bytes, expected) << threads << " threads";
    }
    expect_bits_of_each_alone(problem, args);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(2 * num_shared, static_cast<int>(num_cases(10)));
}

std::atomic<std::int64_t> keys_read{0};  // of each KV head
const FusedKernels* kernels_counted = nullptr;

void count_keys(const AttentionTask& task, const AttentionPart& part, const AttentionPart* upcoming,
                float* scratch, StateView state) {
  keys_read += (part.key_end - part.key_begin) * (part.unit.kv_head_end - part.unit.kv_head_begin);
  kernels_counted->part(task, part, upcoming, scratch, state);
}

// 24 sequences over 512 keys in common and 264 of their own; also with as many rows as take two
// passes.
TEST_P(OnInstructionSet, ASharedKeyIsReadOncePerPassOnAnyNumberOfThreads) {
  AttentionChoice kernels = selected_kernels().attention(DType::float32);
  for (const std::int64_t group : {1, 16}) {
    ProblemSizes sizes;
    sizes.seq_lens.assign(24, 776);
    sizes.num_kv_heads = 2;
    sizes.group = group;
    sizes.head_dim = sizes.v_head_dim = 32;
    Problem problem(sizes, 1);
    // one token a sequence: group rows
    const FusedKernels*& way = group == 1 ? kernels.direct : kernels.packed;
    kernels_counted = way;
    FusedKernels counting = *way;
    counting.part = &count_keys;
    way = &counting;
    for (std::int64_t seq = 1; seq < 24; ++seq) share_blocks(problem, 0, seq, 512);
    const std::int64_t passes = group == 1 ? 1 : 2;
    for (const int threads : {1, 3}) {
      keys_read = 0;
      IndexSnapshot indices;
      launch_fused(indices.take(problem.args()), kernels, threads, "paged_attention");
      EXPECT_EQ(keys_read, 2 * (passes * 512 + 24 * 264)) << "group " << group;
    }
    way = kernels_counted;
    expect_bits_of_each_alone(problem, problem.args());
  }
}

// Parts of one KV head of a unit, in groups of their own.
TEST_P(OnInstructionSet, UnitsOfOneKvHeadShareToo) {
  ProblemSizes sizes;
  sizes.seq_lens = {1300, 1250, 1200};
  sizes.q_lens = {5, 5, 5};
  sizes.num_kv_heads = 6;
  sizes.group = 9;
  sizes.head_dim = sizes.v_head_dim = 128;
  Problem problem(sizes, 3);
  share_blocks(problem, 0, 1, 1024);
  share_blocks(problem, 0, 2, 1024);
  const PagedAttentionArgs args = problem.args();
  expect_answer(problem, args, Implementation::fused, oracle(problem, args));
  expect_bits_of_each_alone(problem, args);
}

// A key that only some of the sequences have may be poison to them alone.
TEST_P(OnInstructionSet, PoisonOfOneSequenceIsNotShared) {
  ProblemSizes sizes;
  sizes.seq_lens.assign(5, 1300);
  sizes.head_dim = sizes.v_head_dim = 128;
  Problem problem(sizes, 2);
  for (std::int64_t seq = 1; seq < 5; ++seq) share_blocks(problem, 0, seq, 1024);
  problem.k_cache.set(problem.row(3, 1100, 0, 128), kNaN);
  const PagedAttentionArgs args = problem.args();
  paged_attention(args, Implementation::fused);
  for (std::int64_t seq = 0; seq < 5; ++seq) {
    EXPECT_EQ(std::isnan(problem.lse[seq * 8]), seq == 3) << seq;
    EXPECT_FALSE(std::isnan(problem.lse[seq * 8 + 7])) << seq;
  }
}

}  // namespace
}  // namespace quire::testing
