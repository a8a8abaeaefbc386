// Attention in tiles, by the model of tiles and by multiply-adds in their order on any processor, and
// by AMX where there is one: against the oracle, with the same bits in any company, and all with the
// bits of each other.
#include "quire/cpu/attention/tiles/tile_path.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "quire/base/check.h"
#include "quire/cpu/operations.h"
#include "quire/cpu/simd/tile_model.h"
#include "support/copying_pager.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

// Few rows in tiles as well, and as many as can be by multiply-adds.
constexpr FusedKernels kTiles = TilePath<TileModel, 0>::kernels("model of tiles");
constexpr FusedKernels kLanes =
    TilePath<TileModel, LaneArithmetic<TileModel>::kMostRows>::kernels("model of lanes");

// As if these were an instruction set of this machine.
SelectedKernels model_kernels(const FusedKernels& kernels) {
  SelectedKernels selected = kernels_named("scalar");
  selected.attention_of[static_cast<std::size_t>(DType::bfloat16)].tiles = &kernels;
  return selected;
}
const SelectedKernels& tile_kernels() {
  static const SelectedKernels kernels = model_kernels(kTiles);
  return kernels;
}
const SelectedKernels& lane_kernels() {
  static const SelectedKernels kernels = model_kernels(kLanes);
  return kernels;
}

const SelectedKernels* amx_kernels() {
  const std::vector<std::string_view> here = available_instruction_sets();
  return std::count(here.begin(), here.end(), "amx") == 0 ? nullptr : &kernels_named("amx");
}

struct Bits {
  std::vector<std::byte> out;
  std::vector<float> lse;

  bool operator==(const Bits& other) const {
    return out == other.out && lse.size() == other.lse.size() &&
           std::memcmp(lse.data(), other.lse.data(), lse.size() * sizeof(float)) == 0;
  }
};

ProblemSizes all_bfloat16(ProblemSizes sizes) {
  sizes.q_dtype = sizes.k_dtype = sizes.v_dtype = DType::bfloat16;
  return sizes;
}

class TileProblem : public Problem {
 public:
  TileProblem(const ProblemSizes& sizes, unsigned seed) : Problem(all_bfloat16(sizes), seed) {
    out = Array(DType::bfloat16, out.shape);
  }
};

Bits run(Problem& problem, const PagedAttentionArgs& args, const SelectedKernels& kernels,
         int threads = 1) {
  forget_results(problem);
  paged_attention(args, Implementation::fused, {&kernels, threads});
  return {problem.out.bytes, problem.lse};
}

enum class Way { tiles, lanes, amx };

class InTiles : public ::testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    if (is_amx() && amx_kernels() == nullptr) GTEST_SKIP() << "this machine has no AMX";
  }
  static bool is_amx() { return GetParam() == Way::amx; }
  static const SelectedKernels& kernels() {
    if (is_amx()) return *amx_kernels();
    return GetParam() == Way::tiles ? tile_kernels() : lane_kernels();
  }
};

std::string name_of(const ::testing::TestParamInfo<Way>& info) {
  if (info.param == Way::amx) return "amx";
  return info.param == Way::tiles ? "tiles" : "lanes";
}
INSTANTIATE_TEST_SUITE_P(All, InTiles, ::testing::Values(Way::tiles, Way::lanes, Way::amx), name_of);

ProblemSizes random_sizes(std::mt19937& random) {
  ProblemSizes sizes;
  sizes.seq_lens.clear();
  for (int i = one_of(random, {1, 2}); i > 0; --i) {
    sizes.seq_lens.push_back(one_of<std::int64_t>(random, {0, 1, 17, 31, 33, 127, 128, 130, 300}));
    const std::int64_t keys = sizes.seq_lens.back();
    sizes.q_lens.push_back(one_of<std::int64_t>(random, {1, 1, 3, 8, 40, keys + 2}));
  }
  const auto heads =
      one_of<std::pair<int, int>>(random, {{1, 1}, {2, 4}, {1, 16}, {2, 3}, {1, 5}, {3, 2}});
  sizes.num_kv_heads = heads.first;
  sizes.group = heads.second;
  sizes.head_dim = one_of<std::int64_t>(random, {1, 33, 64, 80, 96, 128, 192, 256});
  sizes.v_head_dim =
      random() % 3 == 0 ? one_of<std::int64_t>(random, {1, 16, 40, 100, 128}) : sizes.head_dim;
  sizes.block_size = one_of<std::int64_t>(random, {1, 5, 16, 32, 100});
  sizes.layout = one_of(random, {Layout::NHD, Layout::HND});
  sizes.q_magnitude = one_of(random, {1.0f, 12.0f});  // 12: maxima rise late
  return sizes;
}

// Windows, caps, slopes, sinks, trees, causal or not: the results are the oracle's, rounded, and
// each sequence has the bits that it has alone, on whatever number of threads. All ways have the
// same ones.
TEST_P(InTiles, IsTheOraclesWhateverTheOptions) {
  std::mt19937 random(5);
  for (unsigned seed = 0; seed < num_cases(40); ++seed) {
    const ProblemSizes sizes = random_sizes(random);
    TileProblem problem(sizes, seed);
    const RandomOptions options(problem, random, 0.7);
    const PagedAttentionArgs& args = options.args;
    const Answer answer = oracle(problem, args);
    const Bits bits = run(problem, args, kernels());
    const double largest = answer.out.size() == 0 ? 0 : answer.out.cwiseAbs().maxCoeff();
    for (Eigen::Index row = 0; row < answer.out.rows(); ++row) {
      for (Eigen::Index d = 0; d < answer.out.cols(); ++d) {
        const double got = problem.out.get(row * answer.out.cols() + d);
        ASSERT_LE(std::abs(got - answer.out(row, d)), 0.012 * std::max(1.0, largest))
            << "seed " << seed << " row " << row << " column " << d;
      }
      if (std::isinf(answer.lse(row))) {
        ASSERT_EQ(problem.lse[row], -kInfinity) << "seed " << seed;
      } else {
        ASSERT_NEAR(problem.lse[row], answer.lse(row), 2e-5 * (1 + std::abs(answer.lse(row))))
            << "seed " << seed << " row " << row;
      }
    }
    ASSERT_EQ(run(problem, args, kernels(), 3), bits) << "seed " << seed;
    if (GetParam() != Way::tiles) {
      ASSERT_EQ(run(problem, args, tile_kernels()), bits) << "seed " << seed;
    }
    for (std::size_t seq = 0; seq < sizes.seq_lens.size(); ++seq) {
      const AloneInBatch alone(problem, args, seq);
      const Bits some = run(problem, alone.args(), kernels());
      const std::size_t row_bytes = bits.out.size() / problem.q.shape[0];
      const auto begin = static_cast<std::size_t>(alone.begin()) * row_bytes;
      const auto count = static_cast<std::size_t>(alone.rows()) * row_bytes;
      ASSERT_EQ(std::memcmp(some.out.data(), bits.out.data() + begin, count), 0)
          << "seed " << seed << " sequence " << seq;
    }
  }
}

// Bits, where what is not a number is like any other such.
Bits with_one_nan(Bits bits) {
  auto* const out = reinterpret_cast<std::uint16_t*>(bits.out.data());
  for (std::size_t i = 0; i < bits.out.size() / 2; ++i) {
    if ((out[i] & 0x7fffu) > 0x7f80u) out[i] = 0x7fc0;
  }
  for (float& each : bits.lse) {
    if (std::isnan(each)) each = kNaN;
  }
  return bits;
}

// From one row to more than multiply-adds take, of one token and of several, of lengths around all
// that the grid has; with numbers that nothing is left of, infinities and what is not a number among
// keys, values and queries: always the bits of tiles.
TEST_P(InTiles, FewRowsHaveTheBitsOfTiles) {
  if (GetParam() == Way::tiles) GTEST_SKIP() << "these are what others are compared with";
  std::mt19937 random(9);
  std::int64_t not_finite = 0;
  for (const std::int64_t keys : {0, 1, 15, 16, 17, 31, 32, 33, 127, 128, 129, 300, 1023, 1025}) {
    for (std::int64_t rows = 1; rows <= 9; ++rows) {
      ProblemSizes sizes;
      sizes.seq_lens = {keys};
      const std::int64_t tokens = rows % one_of<std::int64_t>(random, {2, 3, 4}) == 0 ? rows : 1;
      sizes.q_lens = {tokens};
      sizes.group = rows / tokens;
      sizes.num_kv_heads = keys > 300 ? 2 : one_of<std::int64_t>(random, {1, 3, 17});
      sizes.head_dim = one_of<std::int64_t>(random, {32, 64, 80, 128});
      sizes.v_head_dim = one_of<std::int64_t>(random, {33, 64, 96, 128});
      sizes.q_magnitude = one_of(random, {1.0f, 12.0f});
      TileProblem problem(sizes, static_cast<unsigned>(keys + rows));
      const auto spoil = [&](Array& array, std::initializer_list<float> numbers, int count) {
        for (int i = 0; array.bytes.size() > 0 && i < count; ++i) {
          const auto at = static_cast<std::int64_t>(random() % (array.bytes.size() / 2));
          if (!std::isnan(array.get(at))) array.set(at, one_of(random, numbers));
        }
      };
      const std::initializer_list<float> small = {1e-38f, -1e-38f, 3e-39f, -1e-40f, 1e-20f, -1e-20f};
      spoil(problem.q, small, 9);
      spoil(problem.k_cache, small, 200);
      spoil(problem.v_cache, small, 200);
      if (rows % 2 == 0) {
        spoil(problem.k_cache, {kInfinity, -kInfinity, kNaN, 3e38f}, 2);
        spoil(problem.v_cache, {kInfinity, -kInfinity, kNaN, 3e38f}, 2);
      }
      RandomOptions options(problem, random, 0.5);
      const Bits expected = with_one_nan(run(problem, options.args, tile_kernels()));
      const Bits bits = with_one_nan(run(problem, options.args, kernels()));
      ASSERT_EQ(bits, expected) << keys << " keys, " << tokens << " x " << sizes.group;
      for (const float each : bits.lse) not_finite += std::isnan(each);
    }
  }
  EXPECT_GT(not_finite, 10);
}

// Rows [begin, end) of a sequence of `problem` as a call of their own, which sees no later key.
Bits chunk(Problem& problem, PagedAttentionArgs args, const SelectedKernels& kernels,
           std::int64_t begin, std::int64_t end) {
  const std::int32_t cu_seqlens[] = {0, static_cast<std::int32_t>(end - begin)};
  const std::int32_t length[] = {static_cast<std::int32_t>(end)};
  args.q.data = args.q.at(begin);
  args.q.shape[0] = args.out.shape[0] = end - begin;
  args.cu_seqlens_q = contiguous_index_view(cu_seqlens, {2});
  args.seq_lens = contiguous_index_view(length, {1});
  Bits bits = run(problem, args, kernels);
  const std::int64_t heads = problem.q.shape[1];
  bits.out.resize(static_cast<std::size_t>((end - begin) * heads * args.out.shape[2] * 2));
  bits.lse.resize(static_cast<std::size_t>((end - begin) * heads));
  return bits;
}

Bits part_of(const Bits& whole, std::int64_t rows, std::int64_t begin, std::int64_t end) {
  const auto cut = [&](const auto& all) {
    const auto of_row = static_cast<std::int64_t>(all.size()) / rows;
    return std::remove_cvref_t<decltype(all)>(all.begin() + begin * of_row,
                                              all.begin() + end * of_row);
  };
  return {cut(whole.out), cut(whole.lse)};
}

// Every token alone, and chunks of 1 to 9 and of more: with scores so large that maxima rise late,
// windows that begin anywhere, and more than one cell of keys.
TEST_P(InTiles, ATokenHasTheSameBitsInAnyChunk) {
  struct Case {
    std::int64_t keys, group, head_dim, block_size, window, sink_tokens;
    float magnitude;
  };
  const std::int64_t many = is_amx() ? 2300 : 1100;
  SampledCases chunks;
  const Case cases[] = {{200, 4, 64, 16, 0, 0, 1},   {200, 1, 64, 5, 0, 0, 12},
                        {200, 4, 80, 16, 30, 0, 12}, {260, 2, 64, 16, 20, 4, 12},
                        {many, 2, 64, 16, 0, 0, 12}, {many, 1, 64, 32, 40, 3, 1}};
  for (const Case& each : cases) {
    ProblemSizes sizes;
    sizes.seq_lens = sizes.q_lens = {each.keys};
    sizes.num_kv_heads = 2;
    sizes.group = each.group;
    sizes.head_dim = sizes.v_head_dim = each.head_dim;
    sizes.block_size = each.block_size;
    sizes.q_magnitude = each.magnitude;
    TileProblem problem(sizes, 3);
    PagedAttentionArgs args = problem.args();
    if (each.window > 0) args.sliding_window = each.window;
    args.num_sink_tokens = each.sink_tokens;
    const Bits whole = run(problem, args, kernels());
    std::mt19937 random(7);
    for (const int most : {1, 9, 300}) {
      const std::int64_t step = most == 1 && each.keys > 300 ? 61 : 1;
      for (std::int64_t begin = 0; begin < each.keys;) {
        const std::int64_t end = std::min<std::int64_t>(begin + 1 + random() % most, each.keys);
        if ((most != 9 || each.keys < 300 || random() % 8 == 0) && chunks.takes_next()) {
          ASSERT_EQ(chunk(problem, args, kernels(), begin, end),
                    part_of(whole, each.keys, begin, end))
              << each.keys << " keys, window " << each.window << ", [" << begin << ", " << end
              << ")";
        }
        begin = most == 1 ? begin + step : end;
      }
    }
  }
}

// NaN and infinities in keys and values that a row does not see, some of which others of its chunk
// do, change no bit of its result; those that it sees make it NaN.
TEST_P(InTiles, WhatIsNotSeenIsNotFelt) {
  for (const std::int64_t block_size : {16, 5}) {
    ProblemSizes sizes;
    sizes.seq_lens = sizes.q_lens = {140};
    sizes.num_kv_heads = 1;
    sizes.group = 3;
    sizes.head_dim = sizes.v_head_dim = 64;
    sizes.block_size = block_size;
    TileProblem problem(sizes, 4);
    PagedAttentionArgs args = problem.args();
    args.sliding_window = 50;
    const Bits clean = run(problem, args, kernels());
    constexpr std::int64_t kBad = 70;  // keys before it, and queries from 120 on, do not meet
    for (const float bad : {kNaN, kInfinity, -kInfinity}) {
      TileProblem other(sizes, 4);
      for (std::int64_t d = 0; d < 64; d += 9) {
        other.v_cache.set(other.row(0, kBad, 0, 64) + d, bad);
      }
      PagedAttentionArgs with = other.args();
      with.sliding_window = 50;
      Bits bits = run(other, with, kernels());
      ASSERT_EQ(part_of(bits, 140, 0, kBad), part_of(clean, 140, 0, kBad));
      ASSERT_EQ(part_of(bits, 140, kBad + 50, 140), part_of(clean, 140, kBad + 50, 140));
      for (std::int64_t d = 0; d < 64; ++d) {
        const double got = other.out.get(kBad * 3 * 64 + d);
        ASSERT_EQ(std::isfinite(got), d % 9 != 0) << d;
      }
      other.k_cache.set(other.row(0, kBad, 0, 64), bad);
      bits = run(other, with, kernels());
      ASSERT_EQ(part_of(bits, 140, 0, kBad), part_of(clean, 140, 0, kBad));
      ASSERT_EQ(part_of(bits, 140, kBad + 50, 140), part_of(clean, 140, kBad + 50, 140));
    }
  }
}

// Keys that come into memory a stretch at a time, as do pieces of a unit of many cells, give the
// same bits as keys that are there.
TEST_P(InTiles, KeysThatComeInPiecesGiveTheSameBits) {
  for (const std::int64_t rows : {3, 400}) {
    for (const std::int64_t window : {0, 150}) {
      ProblemSizes sizes;
      sizes.seq_lens = {2200, 300};
      sizes.q_lens = {is_amx() ? rows : 3, 40};
      sizes.num_kv_heads = 2;
      sizes.group = 2;
      sizes.head_dim = sizes.v_head_dim = 32;
      sizes.q_magnitude = 12;
      TileProblem problem(sizes, 6);
      PagedAttentionArgs args = problem.args();
      if (window > 0) args.sliding_window = window;
      args.num_sink_tokens = window > 0 ? 5 : 0;
      const Bits bits = run(problem, args, kernels());
      CopyingPager pager(args);
      ASSERT_EQ(run(problem, pager.args(), kernels(), 2), bits) << rows << " rows, " << window;
    }
  }
}

// float32 queries, or results, are too precise for weights of bfloat16.
TEST(TilePath, TakesWhatIsAllBFloat16) {
  AttentionTask task{};
  for (DType* const dtype : {&task.q.dtype, &task.k.dtype, &task.v.dtype, &task.out.dtype}) {
    *dtype = DType::bfloat16;
  }
  EXPECT_TRUE(kTiles.takes(task, 1));
  for (DType* const dtype : {&task.q.dtype, &task.k.dtype, &task.v.dtype, &task.out.dtype}) {
    *dtype = DType::float32;
    EXPECT_FALSE(kTiles.takes(task, 1));
    *dtype = DType::bfloat16;
  }
}

}  // namespace
}  // namespace quire::testing
