// Fused, gather and the float64 reference against the oracle, on every instruction set of this
// machine.
#include "quire/cpu/attention/attention_launch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfenv>
#include <cstdlib>
#include <new>
#include <random>

#include "quire/base/check.h"
#include "quire/cpu/operations.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(All, OnInstructionSet, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

// Sizes drawn from those that have an edge somewhere: blocks, tiles, vectors, groups.
ProblemSizes random_sizes(std::mt19937& random) {
  ProblemSizes sizes;
  sizes.seq_lens.clear();
  const int batch = one_of(random, {1, 1, 3});
  for (int i = 0; i < batch; ++i) {
    sizes.seq_lens.push_back(one_of<std::int64_t>(random, {0, 1, 15, 16, 17, 31, 54, 97, 320}));
    const std::int64_t keys = sizes.seq_lens.back();
    const std::int64_t most = random() % 4 == 0 ? keys + 20 : std::max<std::int64_t>(1, keys);
    const std::int64_t any = one_of<std::int64_t>(random, {0, 1, 1, 1, 2, 5, 40, keys + 1});
    sizes.q_lens.push_back(std::min(most, any));
  }
  const auto heads = one_of<std::pair<int, int>>(
      random, {{1, 1}, {4, 1}, {2, 4}, {3, 3}, {2, 7}, {1, 25}, {8, 4}});
  sizes.num_kv_heads = heads.first;
  sizes.group = heads.second;
  sizes.head_dim = one_of<std::int64_t>(random, {1, 33, 64, 80, 96, 128, 192});
  sizes.v_head_dim =
      random() % 3 == 0 ? one_of<std::int64_t>(random, {1, 16, 40, 100, 128}) : sizes.head_dim;
  sizes.block_size = one_of<std::int64_t>(random, {1, 5, 16, 32, 100});
  for (DType* dtype : {&sizes.q_dtype, &sizes.k_dtype, &sizes.v_dtype}) {
    *dtype = one_of(random, {DType::float32, DType::float16, DType::bfloat16});
  }
  sizes.layout = one_of(random, {Layout::NHD, Layout::HND});
  return sizes;
}

std::string describe(unsigned seed, const ProblemSizes& sizes, const PagedAttentionArgs& args) {
  std::string text = concat("seed ", seed, ", (queries, keys):");
  for (std::size_t seq = 0; seq < sizes.seq_lens.size(); ++seq) {
    text += concat(" (", sizes.q_lens[seq], ", ", sizes.seq_lens[seq], ")");
  }
  return text + concat(", heads ", sizes.num_kv_heads, " x ", sizes.group, ", D ", sizes.head_dim,
                       ", Dv ", sizes.v_head_dim, ", block ", sizes.block_size, ", ",
                       name_of(sizes.q_dtype), " ", name_of(sizes.k_dtype), " ",
                       name_of(sizes.v_dtype), args.causal ? ", causal" : "",
                       args.causal_of_each ? " of each" : "", args.tree_mask ? ", trees" : "",
                       ", window ", args.sliding_window.value_or(0), ", sides ",
                       args.window_sides.value_or(WindowSides{}).left, " ",
                       args.window_sides.value_or(WindowSides{}).right, ", sink tokens ",
                       args.num_sink_tokens, ", softcap ", args.softcap.value_or(0), ", scale ",
                       args.scale.value_or(NAN), args.alibi_slopes ? ", alibi" : "",
                       args.sinks ? ", sinks" : "");
}

TEST_P(OnInstructionSet, AgreesOnRandomProblems) {
  for (unsigned seed = 0; seed < num_cases(100); ++seed) {
    std::mt19937 random(seed);
    Problem problem(random_sizes(random), seed);
    RandomOptions options(problem, random, 1.0);
    const PagedAttentionArgs& args = options.args;
    SCOPED_TRACE(describe(seed, problem.sizes, args));
    // unscaled scores are an order of magnitude larger, and so are their roundings
    expect_all(problem, args, args.scale == 1.0 ? 1e-4 : 5e-6);
    if (HasFatalFailure()) return;
  }
}

TEST_P(OnInstructionSet, AgreesOnLongContexts) {
  ProblemSizes sizes;
  sizes.seq_lens = {2048, 3000, 700};
  sizes.q_lens = {1, 1, 3};
  sizes.k_dtype = sizes.v_dtype = DType::bfloat16;
  Problem problem(sizes, 1);
  expect_all(problem, problem.args());
}

TEST_P(OnInstructionSet, AgreesOnLatentAttention) {
  ProblemSizes sizes;
  sizes.seq_lens = {97, 40};
  sizes.num_kv_heads = 1;
  sizes.group = 128;
  sizes.head_dim = 576;
  sizes.v_head_dim = 512;
  Problem problem(sizes, 2);
  expect_all(problem, problem.args());
}

TEST_P(OnInstructionSet, AgreesOnPrefillOverManyRows) {
  ProblemSizes sizes;
  sizes.seq_lens = {300, 130};
  sizes.q_lens = {300, 100};
  sizes.q_dtype = sizes.k_dtype = sizes.v_dtype = DType::bfloat16;
  Problem problem(sizes, 3);
  PagedAttentionArgs args = problem.args();
  expect_all(problem, args);
  args.sliding_window = 50;
  expect_all(problem, args);
  args.num_sink_tokens = 37;
  expect_all(problem, args);
}

// Whole numbers, so that dot products are exact and only the softmax can lose the score's small
// differences under its size.
TEST_P(OnInstructionSet, KeepsDifferencesOfHugeScores) {
  ProblemSizes sizes;
  sizes.seq_lens = {200};
  sizes.head_dim = 64;
  Problem problem(sizes, 4);
  std::mt19937 random(4);
  for (std::int64_t i = 0; i < problem.q.size(); ++i) problem.q.set(i, i % 64 == 0 ? 1 : 512);
  for (std::int64_t position = 0; position < 200; ++position) {
    for (std::int64_t head = 0; head < 2; ++head) {
      const std::int64_t row = problem.row(0, position, head, 64);
      problem.k_cache.set(row, static_cast<float>(random() % 7));
      for (int d = 1; d < 64; ++d) problem.k_cache.set(row + d, 16);
    }
  }
  PagedAttentionArgs args = problem.args();
  args.scale = 1.0;
  const Answer answer = oracle(problem, args);
  EXPECT_GT(answer.lse(0), 5e5);
  expect_all(problem, args);
}

TEST_P(OnInstructionSet, LargeFallingAndRisingScores) {
  ProblemSizes sizes;
  sizes.seq_lens = {500};
  sizes.q_magnitude = 60;
  Problem problem(sizes, 5);
  expect_all(problem, problem.args(), 1e-4);
}

// Keys that causality or a window hides may hold anything.
TEST_P(OnInstructionSet, HiddenKeysMayBePoison) {
  ProblemSizes sizes;
  sizes.seq_lens = {80};
  sizes.q_lens = {6};
  sizes.group = 1;
  Problem problem(sizes, 6);
  PagedAttentionArgs args = problem.args();
  args.sliding_window = 20;
  const Answer answer = oracle(problem, args);
  for (std::int64_t head = 0; head < 2; ++head) {
    for (const std::int64_t position : {0, 30, 54, 79}) {
      problem.k_cache.set(problem.row(0, position, head, 64) + 3, kNaN);
      problem.v_cache.set(problem.row(0, position, head, 64) + 5, kNaN);
    }
  }
  for (const Implementation implementation :
       {Implementation::fused, Implementation::gather, Implementation::dense}) {
    paged_attention(args, implementation);
    for (std::int64_t token = 0; token < 6; ++token) {
      for (std::int64_t head = 0; head < 2; ++head) {
        for (std::int64_t d = 0; d < 64; ++d) {
          const double got = problem.out.get((token * 2 + head) * 64 + d);
          if (token == 5) {  // sees position 79, which is poison
            ASSERT_TRUE(std::isnan(got)) << name_of(implementation);
          } else {
            ASSERT_NEAR(got, answer.out(token * 2 + head, d), 1e-5)
                << name_of(implementation) << " token " << token;
          }
        }
      }
    }
  }
}

// A sequence's bits: alone, in a batch, at another place of it, on any number of threads.
TEST_P(OnInstructionSet, BitsDoNotDependOnBatchOrThreads) {
  ProblemSizes sizes;
  sizes.seq_lens = {5, 1500, 64, 3000, 0, 333};
  sizes.q_lens = {5, 1, 3, 1, 1, 70};
  sizes.k_dtype = sizes.v_dtype = DType::float16;
  Problem problem(sizes, 7);
  const PagedAttentionArgs args = problem.args();
  for (const Implementation implementation : {Implementation::fused, Implementation::gather}) {
    paged_attention(args, implementation, 1);
    const std::vector<std::byte> expected = problem.out.bytes;
    const std::vector<float> expected_lse = problem.lse;
    for (const int threads : {2, 3, 8}) {
      std::fill(problem.out.bytes.begin(), problem.out.bytes.end(), std::byte{0x7f});
      paged_attention(args, implementation, threads);
      ASSERT_EQ(problem.out.bytes, expected) << name_of(implementation) << threads;
      ASSERT_EQ(problem.lse, expected_lse);
    }
    const std::int64_t row_bytes = args.out.strides[0];
    for (std::size_t seq = 0; seq < sizes.seq_lens.size(); ++seq) {
      const AloneInBatch alone(problem, args, seq);
      const std::int64_t begin = alone.begin(), rows = alone.rows();
      paged_attention(alone.args(), implementation, 2);
      ASSERT_TRUE(std::equal(problem.out.bytes.begin(),
                             problem.out.bytes.begin() + rows * row_bytes,
                             expected.begin() + begin * row_bytes))
          << name_of(implementation) << " sequence " << seq;
    }
  }
}

// The newest key of a tile with few keys, where a masked score could hide it.
TEST_P(OnInstructionSet, ANaNIsSeenWhereverItStands) {
  for (const std::int64_t length : {1, 33, 40}) {
    ProblemSizes sizes;
    sizes.seq_lens = {length};
    for (const std::int64_t position : {std::int64_t{0}, length - 1}) {
      Problem problem(sizes, 8);
      problem.k_cache.set(problem.row(0, position, 1, 64) + 7, kNaN);
      PagedAttentionArgs args = problem.args();
      Array sinks = problem.filled(DType::float32, {8}, 1.0f);
      args.sinks = sinks.view();
      for (const Implementation implementation :
           {Implementation::fused, Implementation::gather, Implementation::dense}) {
        paged_attention(args, implementation);
        EXPECT_FALSE(std::isnan(problem.out.get(0))) << name_of(implementation);
        EXPECT_TRUE(std::isnan(problem.out.get(4 * 64))) << name_of(implementation) << length;
        EXPECT_TRUE(std::isnan(problem.lse[4])) << name_of(implementation) << length;
      }
    }
  }
}

TEST_P(OnInstructionSet, OptionsAtTheEndsOfTheirRange) {
  ProblemSizes sizes;
  sizes.seq_lens = {40};
  Problem problem(sizes, 9);
  for (const double softcap : {1e300, 1e31, 1e-3}) {
    PagedAttentionArgs args = problem.args();
    args.softcap = softcap;
    expect_all(problem, args);
  }
  PagedAttentionArgs args = problem.args();
  Array sinks(DType::float32, {8}), slopes(DType::float32, {8});
  for (std::int64_t head = 0; head < 8; ++head) {
    sinks.set(head, 3e38f);
    slopes.set(head, 3e38f);
  }
  args.alibi_slopes = slopes.view();  // only the query's own key is left
  expect_all(problem, args);
  args.sinks = sinks.view();
  for (const Implementation implementation : {Implementation::fused, Implementation::gather}) {
    paged_attention(args, implementation);
    for (std::int64_t i = 0; i < problem.out.size(); ++i) ASSERT_EQ(problem.out.get(i), 0);
  }
  args.scale = 1e39;
  EXPECT_THROW(paged_attention(args), ValueError);
}

// A key of no weight has no value either, however large.
TEST_P(OnInstructionSet, WeightsFarBelowTheLargestAreZero) {
  ProblemSizes sizes;
  sizes.seq_lens = {2};
  Problem problem(sizes, 10);
  for (std::int64_t i = 0; i < problem.q.size(); ++i) problem.q.set(i, 100);
  for (std::int64_t head = 0; head < 2; ++head) {
    for (std::int64_t d = 0; d < 64; ++d) {
      problem.k_cache.set(problem.row(0, 0, head, 64) + d, -1);
      problem.k_cache.set(problem.row(0, 1, head, 64) + d, 1);
      problem.v_cache.set(problem.row(0, 0, head, 64) + d, 1e38f);
      problem.v_cache.set(problem.row(0, 1, head, 64) + d, 2);
    }
  }
  expect_all(problem, problem.args());
}

// Bits do not depend on the rounding mode that a caller has set.
TEST_P(OnInstructionSet, BitsDoNotDependOnTheCallersFloatMode) {
  ProblemSizes sizes;
  sizes.seq_lens = {2000, 900};
  Problem problem(sizes, 11);
  for (const Implementation implementation : {Implementation::fused, Implementation::gather}) {
    paged_attention(problem.args(), implementation, 1);
    const std::vector<std::byte> expected = problem.out.bytes;
    for (const int threads : {1, 2, 4}) {
      std::fesetround(FE_UPWARD);
      paged_attention(problem.args(), implementation, threads);
      const int mode = std::fegetround();
      std::fesetround(FE_TONEAREST);
      EXPECT_EQ(mode, FE_UPWARD);
      EXPECT_EQ(problem.out.bytes, expected) << name_of(implementation) << threads;
    }
  }
}

TEST(PagedAttention, ASequenceLongerThanAnyMemoryIsRefused) {
  float zero = 0;
  constexpr std::int64_t kKeys = std::int64_t{1} << 39;
  PagedAttentionArgs args;
  args.k_cache = contiguous_view(&zero, DType::float32, {1, kKeys, 1, 1});
  args.k_cache.strides[1] = 0;
  args.v_cache = args.k_cache;
  float out = 0, q = 0;
  args.q = contiguous_view(&q, DType::float32, {1, 1, 1});
  args.out = contiguous_view(&out, DType::float32, {1, 1, 1});
  const std::int64_t block = 0, length = kKeys;
  args.block_tables = contiguous_index_view(&block, {1, 1});
  args.seq_lens = contiguous_index_view(&length, {1});
  EXPECT_THROW(paged_attention(args, Implementation::gather), std::bad_alloc);
  const std::int64_t longer = kKeys * 4;
  args.seq_lens = contiguous_index_view(&longer, {1});
  EXPECT_THROW(paged_attention(args, Implementation::gather), ValueError);
}

}  // namespace
}  // namespace quire::testing
