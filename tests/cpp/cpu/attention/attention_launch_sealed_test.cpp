// Attention over quantised caches with open blocks between the others, against the oracle over the
// numbers that they stand for, on every instruction set of this machine.
#include <gtest/gtest.h>

#include <random>

#include "quire/base/check.h"
#include "quire/cpu/attention/attention_launch.h"
#include "quire/cpu/attention/block_mass_launch.h"
#include "quire/ops/attention/index_snapshot.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"
#include "support/sealed_problem.h"
#include "support/shared_problem.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(All, OnInstructionSet, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

// Queries and weights are rounded to 16 bits where whole numbers are multiplied.
constexpr double kTolerance = 2e-4;
constexpr double kFloatTolerance = 1e-5;

constexpr DType kSealed[] = {DType::int4, DType::int8, DType::float8_e4m3fn, DType::float8_e5m2};

DType any_sealed(std::mt19937& random) { return kSealed[random() % std::size(kSealed)]; }

void run(const PagedAttentionArgs& args, Implementation implementation, int num_threads = 1) {
  IndexSnapshot snapshot;
  const PagedAttentionArgs copied = snapshot.take(args);
  const AttentionChoice& kernels = selected_kernels().attention(args.k_cache.dtype);
  if (implementation == Implementation::gather) {
    launch_gather(copied, kernels, num_threads);
  } else {
    launch_fused(copied, kernels, num_threads, "test");
  }
  if (args.block_mass != nullptr) launch_block_mass(copied, kernels, num_threads);
}

struct Results {
  std::vector<std::byte> out;
  std::vector<float> lse;
  bool operator==(const Results&) const = default;
};

Results results_of(Problem& problem, const PagedAttentionArgs& args, int num_threads = 1) {
  forget_results(problem);
  run(args, Implementation::fused, num_threads);
  return {problem.out.bytes, problem.lse};
}

void expect_mass(PagedAttentionArgs args, const Answer& answer, double tolerance) {
  std::vector<float> mass(static_cast<std::size_t>(answer.block_mass.size()));
  args.block_mass = mass.data();
  run(args, Implementation::fused);
  for (Eigen::Index i = 0; i < answer.block_mass.size(); ++i) {
    const Eigen::Index row = i / answer.block_mass.cols(), column = i % answer.block_mass.cols();
    ASSERT_NEAR(mass[i], answer.block_mass(row, column), tolerance)
        << "row " << row << " column " << column;
  }
}

// `times`: by how much scores are larger than about 1, and their roundings.
void expect_right(Problem& problem, const PagedAttentionArgs& args, SealedProblem& sealed,
                  double times = 1) {
  const Answer answer = oracle(problem, args);
  for (const Implementation implementation : {Implementation::fused, Implementation::gather}) {
    forget_results(problem);
    run(sealed.args(args), implementation);
    const bool fused = implementation == Implementation::fused;
    expect_results(problem, implementation, answer, times * (fused ? kTolerance : kFloatTolerance));
    if (::testing::Test::HasFatalFailure()) return;
  }
  expect_mass(sealed.args(args), answer, 4 * times * kFloatTolerance);
}

ProblemSizes random_sizes(std::mt19937& random, DType sealed) {
  ProblemSizes sizes;
  sizes.seq_lens.clear();
  const int batch = one_of(random, {1, 1, 3});
  for (int i = 0; i < batch; ++i) {
    sizes.seq_lens.push_back(one_of<std::int64_t>(random, {0, 1, 15, 16, 17, 31, 54, 97, 320}));
    const std::int64_t most = std::max<std::int64_t>(1, sizes.seq_lens.back());
    sizes.q_lens.push_back(std::min(most, one_of<std::int64_t>(random, {0, 1, 1, 1, 2, 5, 40})));
  }
  const auto heads = one_of<std::pair<int, int>>(
      random, {{1, 1}, {4, 1}, {3, 2}, {3, 3}, {2, 4}, {2, 7}, {1, 8}, {8, 4}});
  sizes.num_kv_heads = heads.first;
  sizes.group = heads.second;
  sizes.head_dim = one_of<std::int64_t>(random, {2, 6, 34, 64, 80, 128, 256});
  sizes.v_head_dim =
      random() % 3 == 0 ? one_of<std::int64_t>(random, {2, 16, 40, 100, 128}) : sizes.head_dim;
  if (sealed != DType::int4 && random() % 3 == 0) {
    sizes.head_dim -= one_of<std::int64_t>(random, {0, 1});
    sizes.v_head_dim -= 1;
  }
  sizes.block_size = one_of<std::int64_t>(random, {1, 3, 16, 16, 32, 100});
  sizes.q_dtype = one_of(random, {DType::float32, DType::float16, DType::bfloat16});
  sizes.layout = one_of(random, {Layout::NHD, Layout::HND});
  return sizes;
}

TEST_P(OnInstructionSet, AgreesOnRandomSealedProblems) {
  for (unsigned seed = 0; seed < num_cases(90); ++seed) {
    std::mt19937 random(seed);
    const DType dtype = any_sealed(random);
    Problem problem(random_sizes(random, dtype), seed);
    const OpenBlocksOf open{
        one_of(random, {0.0, 0.2, 0.5, 1.0}),
        one_of(random, {DType::bfloat16, DType::bfloat16, DType::float16, DType::float32}), dtype,
        one_of<std::int64_t>(random, {0, 2})};
    SealedProblem sealed(problem, open, seed);
    RandomOptions options(problem, random, 0.3);
    const PagedAttentionArgs& args = options.args;
    const ProblemSizes& sizes = problem.sizes;
    SCOPED_TRACE(concat("seed ", seed, ", heads ", sizes.num_kv_heads, " x ", sizes.group, ", D ",
                        sizes.head_dim, ", Dv ", sizes.v_head_dim, ", block ", sizes.block_size,
                        ", open ", open.part, " ", name_of(open.dtype), ", sealed ",
                        name_of(dtype)));
    expect_right(problem, args, sealed, args.scale ? 10 : 1);
    if (HasFatalFailure()) return;
  }
}

TEST_P(OnInstructionSet, AgreesOnLongSealedContexts) {
  SampledCases cases;
  for (const DType dtype : kSealed) {
    for (const double open : {0.0, 0.3}) {
      for (const std::int64_t v_head_dim : {128, 100}) {
        if (!cases.takes_next()) continue;
        ProblemSizes sizes;
        sizes.seq_lens = {2300, 700};
        sizes.q_lens = {2, 1};
        sizes.head_dim = 128;
        sizes.v_head_dim = v_head_dim;
        sizes.q_dtype = DType::bfloat16;
        Problem problem(sizes, 1);
        // parts of sealed blocks alone, and ends that are open
        SealedProblem sealed(problem, {open, DType::bfloat16, dtype, 2}, 1);
        SCOPED_TRACE(concat(name_of(dtype), ", open ", open, ", Dv ", v_head_dim));
        expect_right(problem, problem.args(), sealed);
      }
    }
  }
}

TEST_P(OnInstructionSet, AgreesOnSealedPrefillOverManyRows) {
  ProblemSizes sizes;
  sizes.seq_lens = {200, 130};
  sizes.q_lens = {200, 100};
  for (const DType dtype : kSealed) {
    SCOPED_TRACE(name_of(dtype));
    Problem problem(sizes, 3);
    SealedProblem sealed(problem, {0.2, DType::bfloat16, dtype}, 3);
    PagedAttentionArgs args = problem.args();
    expect_right(problem, args, sealed);
    args.sliding_window = 50;
    args.num_sink_tokens = 37;
    expect_right(problem, args, sealed);
  }
}

// Results in bfloat16 too, for which values are multiplied in pairs where no block is open.
TEST_P(OnInstructionSet, AgreesWhereResultsAreBFloat16) {
  for (const DType dtype : kSealed) {
    for (const std::int64_t group : {1, 4, 8}) {
      ProblemSizes sizes;
      sizes.seq_lens = {1500, 40};
      sizes.group = group;
      sizes.v_head_dim = 90;
      sizes.q_dtype = DType::bfloat16;
      Problem problem(sizes, 9);
      problem.out = Array(DType::bfloat16, problem.out.shape);
      SealedProblem sealed(problem, {0.0, DType::bfloat16, dtype, 3}, 9);
      const Answer answer = oracle(problem, problem.args());
      SCOPED_TRACE(concat(name_of(dtype), ", group ", group));
      forget_results(problem);
      run(sealed.args(problem.args()), Implementation::fused);
      expect_results(problem, Implementation::fused, answer, 0.006);
    }
  }
}

// Whoever has no open block of its own is computed as if there were none.
TEST_P(OnInstructionSet, OpenBlocksOfNobodyChangeNoBit) {
  for (const DType dtype : {DType::int8, DType::float8_e4m3fn, DType::float8_e5m2}) {
    for (const std::int64_t group : {1, 8}) {
      ProblemSizes sizes;
      sizes.seq_lens = {300, 33};
      sizes.group = group;
      sizes.q_dtype = DType::bfloat16;
      Problem problem(sizes, 11);
      SealedProblem sealed(problem, {0.0, DType::bfloat16, dtype}, 11);
      PagedAttentionArgs args = sealed.args(problem.args());
      const Results with = results_of(problem, args);
      args.k_open = args.v_open = std::nullopt;
      ASSERT_EQ(results_of(problem, args), with) << name_of(dtype) << " group " << group;
    }
  }
}

// A sequence's positions are its own where tokens have been taken out of it.
TEST_P(OnInstructionSet, AgreesOnSealedKeysAtPositions) {
  ProblemSizes sizes;
  sizes.seq_lens = {100};
  sizes.q_lens = {3};
  Problem problem(sizes, 5);
  SealedProblem sealed(problem, {0.3}, 5);
  std::vector<std::int64_t> positions(100);
  for (std::int64_t i = 0; i < 100; ++i) positions[i] = 3 * i + i % 2;
  PagedAttentionArgs args = sealed.args(problem.args());
  args.key_positions = contiguous_index_view(positions.data(), {1, 100});
  args.sliding_window = 90;
  Array slopes = problem.filled(DType::float32, {8}, 0.01f);
  args.alibi_slopes = slopes.view();
  run(args, Implementation::gather);
  const Array expected = problem.out;
  forget_results(problem);
  run(args, Implementation::fused);
  for (std::int64_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(problem.out.get(i), expected.get(i), 10 * kTolerance) << i;
  }
}

// Grids at the ends of float16, and scores whose differences are beyond the exponents of float32.
TEST_P(OnInstructionSet, HugeInt4ScoresMeetTheirMaximum) {
  for (const float magnitude : {1e-6f, 1e3f, 1e7f}) {
    for (const float step : {0x1p-20f, 100.0f, 3000.0f}) {
      for (const std::int64_t group : {1, 8}) {
        ProblemSizes sizes;
        sizes.seq_lens = {70};
        sizes.group = group;
        sizes.q_magnitude = magnitude;
        Problem problem(sizes, 21);
        SealedProblem sealed(problem, {0.2}, 21, step);
        SCOPED_TRACE(concat("q ", magnitude, ", step ", step, ", group ", group));
        // who weighs 1 is decided by more than a rounding: else all differences are
        const Answer answer = oracle(problem, problem.args());
        forget_results(problem);
        run(sealed.args(problem.args()), Implementation::fused);
        for (Eigen::Index row = 0; row < answer.lse.size(); ++row) {
          ASSERT_NEAR(problem.lse[row], answer.lse(row), 1e-4 * (1 + std::abs(answer.lse(row))));
          for (std::int64_t d = 0; d < 64; ++d) {
            ASSERT_TRUE(std::isfinite(problem.out.get(row * 64 + d)));
          }
        }
      }
    }
  }
}

// Wherever in a tile a row of an open block lies; who sees it must.
TEST_P(OnInstructionSet, AHiddenOpenKeyMayBeNoNumber) {
  constexpr std::int64_t kKeys = 150;
  for (const std::int64_t tokens : {2, 4, 20}) {
    for (const std::int64_t window : {1, 2, 40}) {
      ProblemSizes sizes;
      sizes.seq_lens = {kKeys};
      sizes.q_lens = {tokens};
      sizes.num_kv_heads = 1;
      sizes.group = 2;
      Problem problem(sizes, 9);
      SealedProblem sealed(problem, {1.0, DType::float32, DType::int4}, 9);
      PagedAttentionArgs args = sealed.args(problem.args());
      args.sliding_window = window;
      const std::int64_t first = kKeys - tokens;  // position of the first query
      for (std::int64_t at = first - window; at < kKeys; ++at) {
        SCOPED_TRACE(concat(tokens, " tokens, window ", window, ", key ", at));
        const std::int64_t element = sealed.open_row(0, at, 0) * 64 + 3;
        for (Array* const open : {&sealed.k_open(), &sealed.v_open()}) {
          const auto before = static_cast<float>(open->get(element));
          open->set(element, kNaN);
          run(args, Implementation::fused);
          open->set(element, before);
          for (std::int64_t i = 0; i < problem.out.size(); ++i) {
            const std::int64_t position = first + i / (2 * 64);
            const bool sees = position >= at && position - window < at;
            const bool felt = sees && (open == &sealed.k_open() || i % 64 == 3);
            ASSERT_EQ(std::isnan(problem.out.get(i)), felt) << "element " << i;
          }
        }
      }
    }
  }
}

TEST_P(OnInstructionSet, ASealedSequenceHasTheSameBitsAlone) {
  for (unsigned seed = 0; seed < num_cases(20); ++seed) {
    std::mt19937 random(1000 + seed);
    const DType dtype = any_sealed(random);
    ProblemSizes sizes = random_sizes(random, dtype);
    sizes.seq_lens = {one_of<std::int64_t>(random, {1, 31, 97, 700}), 33, 320, 1};
    sizes.q_lens = {1, one_of<std::int64_t>(random, {1, 2, 20}), 1, 1};
    Problem problem(sizes, seed);
    const OpenBlocksOf open{one_of(random, {0.0, 0.3}), DType::bfloat16, dtype,
                            one_of<std::int64_t>(random, {0, 1})};
    SealedProblem sealed(problem, open, seed);
    PagedAttentionArgs args = problem.args();
    if (random() % 2 == 0) args.sliding_window = 40;
    SCOPED_TRACE(seed);
    const PagedAttentionArgs whole = sealed.args(args);
    const Results together = results_of(problem, whole);
    for (const int num_threads : {2, 3, 4}) {
      ASSERT_EQ(results_of(problem, whole, num_threads), together) << num_threads << " threads";
    }
    for (std::size_t seq = 0; seq < sizes.seq_lens.size(); ++seq) {
      const AloneInBatch alone(problem, whole, seq);
      forget_results(problem);
      run(alone.args(), Implementation::fused);
      const std::int64_t heads = sizes.num_kv_heads * sizes.group;
      const std::int64_t row_bytes = sizes.v_head_dim * 4;
      ASSERT_TRUE(std::equal(problem.out.bytes.begin(),
                             problem.out.bytes.begin() + alone.rows() * heads * row_bytes,
                             together.out.begin() + alone.begin() * heads * row_bytes))
          << "sequence " << seq;
    }
  }
}

TEST_P(OnInstructionSet, ASealedSequenceHasTheSameBitsFromASharedPrefix) {
  constexpr DType kBits = DType::bfloat16;
  const OpenBlocksOf opens[] = {{0.0},
                                {0.3},
                                {0.0, kBits, DType::int8, 2},
                                {0.3, kBits, DType::int8},
                                {0.0, kBits, DType::float8_e4m3fn, 2}};
  constexpr std::pair<std::int64_t, std::int64_t> kShapes[] = {{1, 64}, {2, 80}, {4, 128}, {8, 64}};
  SampledCases cases;
  for (const auto& [group, dim] : kShapes) {
    for (const OpenBlocksOf& open : opens) {
      if (!cases.takes_next()) continue;
      ProblemSizes sizes;
      sizes.seq_lens = {700, 640, 900, 515, 600};
      sizes.q_lens = {1, 1, 1, 2, 1};
      sizes.group = group;
      sizes.head_dim = sizes.v_head_dim = dim;
      Problem problem(sizes, 7);
      for (const std::int64_t seq : {1, 2, 3, 4}) share_blocks(problem, 0, seq, 512);
      SealedProblem sealed(problem, open, 7);
      SCOPED_TRACE(
          concat("group ", group, ", D ", dim, ", open ", open.part, " ", name_of(open.sealed)));
      expect_right(problem, problem.args(), sealed);
      if (HasFatalFailure()) return;
      const PagedAttentionArgs whole = sealed.args(problem.args());
      const Results together = results_of(problem, whole);
      ASSERT_EQ(results_of(problem, whole, 3), together);
      for (std::size_t seq = 0; seq < sizes.seq_lens.size(); ++seq) {
        const AloneInBatch alone(problem, whole, seq);
        forget_results(problem);
        run(alone.args(), Implementation::fused);
        const std::int64_t row_bytes = 2 * group * dim * 4;
        ASSERT_TRUE(std::equal(problem.out.bytes.begin(),
                               problem.out.bytes.begin() + alone.rows() * row_bytes,
                               together.out.begin() + alone.begin() * row_bytes))
            << "sequence " << seq;
      }
    }
  }
}

}  // namespace
}  // namespace quire::testing
