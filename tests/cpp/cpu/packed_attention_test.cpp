// Attention of several query rows for a KV head: around the switch between rows read directly and
// packed keys, around the edges of tiles and panels, and with results in bfloat16.
#include "quire/base/check.h"
#include "support/on_instruction_set.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Packed, OnInstructionSet, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

TEST_P(OnInstructionSet, EveryNumberOfRows) {
  for (std::int64_t group = 1; group <= 40; ++group) {
    for (const std::int64_t head_dim : {20, 128}) {
      SCOPED_TRACE(concat("group ", group, ", D ", head_dim));
      ProblemSizes sizes;
      sizes.seq_lens = {150};
      sizes.group = group;
      sizes.num_kv_heads = 2;
      sizes.head_dim = sizes.v_head_dim = head_dim;
      sizes.k_dtype = sizes.v_dtype = group % 2 == 0 ? DType::bfloat16 : DType::float16;
      Problem problem(sizes, static_cast<unsigned>(group));
      expect_all(problem, problem.args());
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OnInstructionSet, EveryLengthAroundATile) {
  for (const std::int64_t keys :
       {1, 2, 15, 16, 17, 31, 32, 33, 63, 65, 127, 128, 129, 130, 255, 257}) {
    for (const std::int64_t tokens : {std::int64_t{3}, keys}) {
      SCOPED_TRACE(concat(tokens, " queries, ", keys, " keys"));
      ProblemSizes sizes;
      sizes.seq_lens = {keys};
      sizes.q_lens = {std::min(tokens, keys)};
      sizes.group = 3;
      sizes.num_kv_heads = 1;
      sizes.block_size = 7;
      Problem problem(sizes, static_cast<unsigned>(keys));
      PagedAttentionArgs args = problem.args();
      expect_all(problem, args);
      args.sliding_window = 40;
      expect_all(problem, args);
      if (HasFatalFailure()) return;
    }
  }
}

// A value that one row sees and its neighbour does not is no number: the neighbour must not feel
// it, wherever in a tile of keys, or a pair of them, it lies.
TEST_P(OnInstructionSet, AHiddenValueMayBeNoNumber) {
  constexpr std::int64_t kKeys = 140, kTokens = 20, kDim = 40;
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (std::int64_t poisoned = kKeys - kTokens; poisoned < kKeys; ++poisoned) {
      ProblemSizes sizes;
      sizes.seq_lens = {kKeys};
      sizes.q_lens = {kTokens};
      sizes.group = 2;
      sizes.num_kv_heads = 1;
      sizes.head_dim = sizes.v_head_dim = kDim;
      sizes.q_dtype = sizes.k_dtype = sizes.v_dtype = dtype;
      Problem problem(sizes, 9);
      problem.v_cache.set(problem.row(0, poisoned, 0, kDim) + 3, kNaN);
      Array out(dtype, {kTokens, 2, kDim});
      PagedAttentionArgs args = problem.args();
      args.out = out.view();
      paged_attention(args, Implementation::fused);
      for (std::int64_t token = 0; token < kTokens; ++token) {
        const bool sees = kKeys - kTokens + token >= poisoned;
        for (std::int64_t i = 0; i < 2 * kDim; ++i) {
          ASSERT_EQ(std::isnan(out.get(token * 2 * kDim + i)), sees && i % kDim == 3)
              << name_of(dtype) << ", key " << poisoned << ", token " << token << ", element " << i;
        }
      }
    }
  }
}

// Where all is bfloat16 weights may be rounded to it as well: no result is further off than a
// rounding of the result itself and a little.
TEST_P(OnInstructionSet, ResultsInBFloat16AreWithinTheirRounding) {
  for (const std::int64_t tokens : {1, 5, 300}) {
    ProblemSizes sizes;
    sizes.seq_lens = {300};
    sizes.q_lens = {tokens};
    sizes.q_dtype = sizes.k_dtype = sizes.v_dtype = DType::bfloat16;
    Problem problem(sizes, 12);
    const std::int64_t rows = tokens * sizes.group * sizes.num_kv_heads;
    Array out(DType::bfloat16, {tokens, sizes.group * sizes.num_kv_heads, sizes.v_head_dim});
    PagedAttentionArgs args = problem.args();
    args.out = out.view();
    const Answer answer = oracle(problem, args);
    paged_attention(args, Implementation::fused);
    double squares = 0, roundings = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t d = 0; d < sizes.v_head_dim; ++d) {
        const double exact = answer.out(row, d);
        const double rounded = to_float(from_float<BFloat16>(static_cast<float>(exact)));
        squares += std::pow(out.get(row * sizes.v_head_dim + d) - exact, 2);
        roundings += std::pow(rounded - exact, 2);
      }
    }
    EXPECT_LT(squares, 1.5 * 1.5 * roundings) << tokens << " tokens";
  }
}

}  // namespace
}  // namespace quire::testing
