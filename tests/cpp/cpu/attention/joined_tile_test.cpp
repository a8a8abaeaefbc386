// Keys of two arrays have the bits of keys in one, in every implementation, on every instruction
// set of this machine.
#include "quire/cpu/attention/joined_tile.h"

#include <gtest/gtest.h>

#include <random>

#include "quire/base/check.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"
#include "support/shared_problem.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(All, OnInstructionSet, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

constexpr DType kFloats[] = {DType::float32, DType::float16, DType::bfloat16};

ProblemSizes random_sizes(std::mt19937& random) {
  ProblemSizes sizes;
  sizes.seq_lens.clear();
  const int batch = one_of(random, {1, 1, 3});
  for (int i = 0; i < batch; ++i) {
    sizes.seq_lens.push_back(one_of<std::int64_t>(random, {0, 1, 15, 17, 31, 54, 97, 320}));
    const std::int64_t most = std::max<std::int64_t>(1, sizes.seq_lens.back());
    sizes.q_lens.push_back(std::min(most, one_of<std::int64_t>(random, {0, 1, 1, 2, 5, 40})));
  }
  const auto heads = one_of<std::pair<int, int>>(
      random, {{1, 1}, {1, 2}, {1, 4}, {1, 8}, {1, 16}, {2, 3}, {3, 1}, {4, 7}});
  sizes.num_kv_heads = heads.first;
  sizes.group = heads.second;
  sizes.head_dim = one_of<std::int64_t>(random, {2, 7, 48, 80, 96, 192, 576});
  sizes.v_head_dim = one_of<std::int64_t>(random, {1, 16, 40, 64});
  sizes.block_size = one_of<std::int64_t>(random, {1, 3, 16, 16, 32});
  sizes.q_dtype = kFloats[random() % 3];
  sizes.k_dtype = kFloats[random() % 3];
  sizes.v_dtype = random() % 2 == 0 ? sizes.k_dtype : kFloats[random() % 3];
  sizes.layout = one_of(random, {Layout::NHD, Layout::HND});
  return sizes;
}

// The keys of a problem as two arrays, the last `tail` numbers of each row in the second.
struct SplitKeys {
  SplitKeys(const Array& keys, std::int64_t tail) {
    std::vector<std::int64_t> shape = keys.shape;
    const std::int64_t whole = shape[3], rows = keys.size() / whole;
    shape[3] = whole - tail;
    fronts = Array(keys.dtype, shape);
    shape[3] = tail;
    tails = Array(keys.dtype, shape);
    const std::size_t item = size_of(keys.dtype);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::byte* const from =
          keys.bytes.data() + static_cast<std::size_t>(row * whole) * item;
      const std::size_t front = static_cast<std::size_t>(whole - tail) * item;
      const std::size_t back = static_cast<std::size_t>(tail) * item;
      std::copy_n(from, front, fronts.bytes.data() + static_cast<std::size_t>(row) * front);
      std::copy_n(from + front, back, tails.bytes.data() + static_cast<std::size_t>(row) * back);
    }
  }

  PagedAttentionArgs args(PagedAttentionArgs args) {
    args.k_cache = fronts.view();
    args.k_tail = tails.view();
    return args;
  }

  Array fronts, tails;
};

struct Results {
  std::vector<std::byte> out;
  std::vector<float> lse, mass;
  bool operator==(const Results&) const = default;
};

Results results_of(Problem& problem, PagedAttentionArgs args, Implementation implementation,
                   int num_threads) {
  forget_results(problem);
  std::vector<float> mass(problem.lse.size() * static_cast<std::size_t>(args.block_tables.shape[1]),
                          kNaN);
  args.block_mass = mass.data();
  paged_attention(args, implementation, num_threads);
  return {problem.out.bytes, problem.lse, mass};
}

TEST_P(OnInstructionSet, KeysOfTwoArraysHaveTheBitsOfOne) {
  std::mt19937 random(11);
  for (int i = 0; i < int(num_cases(80)); ++i) {
    Problem problem(random_sizes(random), random());
    const std::int64_t head_dim = problem.sizes.head_dim;
    const std::int64_t tail = 1 + static_cast<std::int64_t>(random()) % (head_dim - 1);
    if (problem.sizes.seq_lens.size() > 1 && random() % 2 == 0) {
      const std::int64_t common = std::min(problem.sizes.seq_lens[0], problem.sizes.seq_lens[1]);
      share_blocks(problem, 0, 1, common / problem.sizes.block_size * problem.sizes.block_size);
    }
    const RandomOptions options(problem, random, 0.2);
    SplitKeys split(problem.k_cache, head_dim == 576 ? 64 : tail);
    for (const Implementation implementation :
         {Implementation::fused, Implementation::gather, Implementation::dense}) {
      const Results expected = results_of(problem, options.args, implementation, 1);
      for (const int threads : {1, 3}) {
        ASSERT_EQ(results_of(problem, split.args(options.args), implementation, threads), expected)
            << "case " << i << ", " << name_of(implementation) << ", threads " << threads;
      }
    }
  }
}

// Independently of keys in one piece.
TEST_P(OnInstructionSet, KeysOfTwoArraysAreRight) {
  std::mt19937 random(12);
  for (int i = 0; i < int(num_cases(40)); ++i) {
    ProblemSizes sizes = random_sizes(random);
    sizes.q_dtype = sizes.k_dtype = sizes.v_dtype = DType::float32;
    Problem problem(sizes, random());
    const RandomOptions options(problem, random, 0.2);
    SplitKeys split(problem.k_cache,
                    1 + static_cast<std::int64_t>(random()) % (sizes.head_dim - 1));
    const Answer answer = oracle(problem, options.args);
    for (const Implementation implementation :
         {Implementation::fused, Implementation::gather, Implementation::dense}) {
      expect_answer(problem, split.args(options.args), implementation, answer, 2e-5);
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace quire::testing
