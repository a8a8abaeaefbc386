// Attention of several query rows for a KV head: around the switch between rows read directly and
// packed keys, around the edges of tiles and panels, and with results in bfloat16.
#include "quire/base/check.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Packed, OnInstructionSet, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

TEST_P(OnInstructionSet, EveryNumberOfRows) {
  SampledCases cases;
  for (std::int64_t group = 1; group <= 40; ++group) {
    for (const std::int64_t head_dim : {20, 128}) {
      if (!cases.takes_next()) continue;
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
  SampledCases cases;
  for (const std::int64_t keys :
       {1, 2, 15, 16, 17, 31, 32, 33, 63, 65, 127, 128, 129, 130, 255, 257}) {
    for (const std::int64_t tokens : {std::int64_t{3}, keys}) {
      if (!cases.takes_next()) continue;
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

// A key that one row sees and its neighbour does not is no number: the neighbour must not feel it,
// wherever in a tile, or a pair of keys, it lies; who sees it must. Few rows, which are read
// directly, and many.
TEST_P(OnInstructionSet, AHiddenKeyMayBeNoNumber) {
  constexpr std::int64_t kKeys = 310;
  struct Shape {
    std::int64_t tokens, group, dim;
  };
  for (const Shape& shape :
       {Shape{2, 1, 40}, Shape{4, 2, 128}, Shape{20, 2, 40}, Shape{70, 1, 16}}) {
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      for (const std::int64_t window : {1, 2, 40}) {
        ProblemSizes sizes;
        sizes.seq_lens = {kKeys};
        sizes.q_lens = {shape.tokens};
        sizes.group = shape.group;
        sizes.num_kv_heads = 1;
        sizes.head_dim = sizes.v_head_dim = shape.dim;
        sizes.q_dtype = sizes.k_dtype = sizes.v_dtype = dtype;
        Problem problem(sizes, 9);
        Array out(dtype, {shape.tokens, shape.group, shape.dim});
        PagedAttentionArgs args = problem.args();
        args.out = out.view();
        args.sliding_window = window;
        const std::int64_t first = kKeys - shape.tokens;  // position of the first query
        for (std::int64_t at = first - window; at < kKeys; ++at) {
          SCOPED_TRACE(concat(name_of(dtype), ", ", shape.tokens, " tokens x ", shape.group,
                              ", window ", window, ", key ", at));
          const std::int64_t row = problem.row(0, at, 0, shape.dim);
          for (Array* const cache : {&problem.k_cache, &problem.v_cache}) {
            const float before = cache->get(row + 3);
            cache->set(row + 3, kNaN);
            paged_attention(args, Implementation::fused);
            cache->set(row + 3, before);
            for (std::int64_t token = 0; token < shape.tokens; ++token) {
              const bool sees = first + token >= at && first + token - window < at;
              for (std::int64_t i = 0; i < shape.group * shape.dim; ++i) {
                const bool felt = sees && (cache == &problem.k_cache || i % shape.dim == 3);
                ASSERT_EQ(std::isnan(out.get(token * shape.group * shape.dim + i)), felt)
                    << "token " << token << ", element " << i;
              }
            }
          }
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
      EXPECT_NEAR(problem.lse[row], answer.lse(row), 1e-5 * (1 + std::abs(answer.lse(row))));
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

// Differences of such scores are beyond the exponents of float32: the largest must still weigh 1.
TEST_P(OnInstructionSet, HugeScoresMeetTheirMaximum) {
  for (const std::int64_t group : {1, 8, 20}) {
    for (const float magnitude : {1e3f, 3e4f, 1e7f}) {
      ProblemSizes sizes;
      sizes.seq_lens = {3};
      sizes.group = group;
      sizes.num_kv_heads = 1;
      Problem problem(sizes, 21);
      for (std::int64_t i = 0; i < problem.q.size(); ++i) problem.q.set(i, magnitude);
      for (std::int64_t at = 0; at < 3; ++at) {
        const std::int64_t row = problem.row(0, at, 0, 64);
        for (int d = 0; d < 64; ++d) {
          problem.k_cache.set(row + d, magnitude * (at == 0 ? 0.97f : at == 1 ? 0.5f : -0.9f));
        }
      }
      expect_all(problem, problem.args());
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OnInstructionSet, EachHeadHasItsOwnSink) {
  ProblemSizes sizes;
  sizes.seq_lens = {100};
  sizes.group = 4;
  Problem problem(sizes, 23);
  Array sinks(DType::float32, {8});
  for (std::int64_t head = 0; head < 8; ++head) {
    sinks.set(head, head % 3 == 0 ? -kInfinity : static_cast<float>(head) / 4);
  }
  PagedAttentionArgs args = problem.args();
  args.sinks = sinks.view();
  expect_all(problem, args);
}

}  // namespace
}  // namespace quire::testing
