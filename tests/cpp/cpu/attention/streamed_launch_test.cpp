// Attention over blocks of which only those of the stretch in use can be touched: whatever else is
// read, a key, a value or a scale, ends the program. On every instruction set, with the bits that
// the same call has without a pager.
#include "quire/cpu/attention/streamed_launch.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "quire/ops/cache/cache_scales.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kHeads = 2, kGroup = 3, kHeadDim = 40, kBlockSize = 16;
constexpr std::int64_t kLeastBlocks = 17;  // of 255 tokens

// A layer of a pool: [block][head] tiles of keys, values and their scales or grids, a block being
// pages.
class Layer {
 public:
  Layer(DType dtype, std::int64_t num_blocks, std::mt19937& random) : num_blocks_(num_blocks) {
    const bool has_grids = dtype == DType::int4;
    const auto item = static_cast<std::int64_t>(size_of(dtype));
    const std::int64_t numbers = kHeadDim / numbers_of(dtype);
    const std::int64_t row = numbers * item, rows = kBlockSize * row;
    const std::int64_t v_scales = 2 * rows + (has_grids ? kHeadDim : kBlockSize) * 4;
    const std::int64_t tile = v_scales + kBlockSize * 4, page = sysconf(_SC_PAGESIZE);
    block_bytes_ = (kHeads * tile + page - 1) / page * page;
    void* const memory =
        mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data_ = static_cast<std::byte*>(memory);
    const auto plane = [&](std::int64_t offset, DType type, int ndim, std::int64_t row_bytes) {
      ArrayView view;
      view.data = data_ + offset;
      view.dtype = type;
      view.ndim = ndim;
      view.shape = {num_blocks, kBlockSize, kHeads, numbers};
      view.strides = {block_bytes_, row_bytes, tile, item};
      return view;
    };
    k = plane(0, dtype, 4, row);
    v = plane(rows, dtype, 4, row);
    k_scale = plane(2 * rows, DType::float32, 3, 4);
    v_scale = plane(v_scales, DType::float32, 3, 4);
    if (has_grids) {
      for (ArrayView* grids : {&k_scale, &v_scale}) {
        grids->dtype = DType::float16;
        grids->ndim = 4;
        grids->shape[3] = 2;
        grids->strides[3] = 2;
      }
      k_scale.shape = {num_blocks, kHeads, kHeadDim, 2};
      k_scale.strides = {block_bytes_, tile, 4, 2};
    }
    std::normal_distribution<float> normal;
    const auto draw_grid = [&] {
      return Int4Grid{from_float<Float16>(0.1f + 0.2f * std::abs(normal(random))),
                      from_float<Float16>(normal(random))};
    };
    for_slots([&](std::int64_t block, std::int64_t row_index, std::int64_t head) {
      for (const ArrayView* view : {&k, &v}) {
        std::byte* const at = view->at(block, row_index, head);
        for (std::int64_t d = 0; d < numbers; ++d) {
          if (dtype != DType::float32) {
            at[d] = static_cast<std::byte>(random() % 256);
          } else {
            reinterpret_cast<float*>(at)[d] = normal(random);
          }
        }
      }
      if (has_grids) {
        if (row_index == 0) {
          std::generate_n(key_grids_at(k_scale, block, head), kHeadDim, draw_grid);
        }
        *value_grid_at(v_scale, block, row_index, head) = draw_grid();
        return;
      }
      for (const ArrayView* view : {&k_scale, &v_scale}) {
        *scale_at(*view, block, row_index, head) = 0.001f + 0.01f * std::abs(normal(random));
      }
    });
  }
  ~Layer() { munmap(data_, bytes()); }
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  void allow(std::int64_t block, bool allowed) const {
    const int rights = allowed ? PROT_READ | PROT_WRITE : PROT_NONE;
    ASSERT_EQ(mprotect(data_ + block * block_bytes_, block_bytes_, rights), 0);
  }
  void allow_all(bool allowed) const {
    for (std::int64_t block = 0; block < num_blocks_; ++block) allow(block, allowed);
  }

  ArrayView k, v, k_scale, v_scale;

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(num_blocks_ * block_bytes_); }
  template <class Visit>
  void for_slots(Visit visit) const {
    for (std::int64_t i = 0; i < num_blocks_ * kBlockSize * kHeads; ++i) {
      visit(i / kHeads / kBlockSize, i / kHeads % kBlockSize, i % kHeads);
    }
  }

  const std::int64_t num_blocks_;
  std::int64_t block_bytes_;
  std::byte* data_;
};

// Shows the blocks of one stretch at a time.
class Curtain final : public KeyPager {
 public:
  explicit Curtain(const Layer& layer) : layer_(layer) { layer_.allow_all(false); }
  ~Curtain() { layer_.allow_all(true); }

  std::int64_t most_blocks() const override { return kLeastBlocks; }
  bool start(const std::vector<std::vector<std::int32_t>>& stretches) override {
    EXPECT_EQ(next, stretches_.size()) << "a pass began before the last was over";
    stretches_ = stretches;
    next = 0;
    ++passes;
    return true;
  }
  void wait_for(std::size_t stretch) override {
    EXPECT_EQ(stretch, next);
    for (const std::int32_t block : stretches_[stretch]) layer_.allow(block, true);
  }
  void done_with(std::size_t stretch) override {
    for (const std::int32_t block : stretches_[stretch]) layer_.allow(block, false);
    next = stretch + 1;
  }

  std::size_t num_stretches() const { return stretches_.size(); }
  std::size_t next = 0;
  int passes = 0;

 private:
  const Layer& layer_;
  std::vector<std::vector<std::int32_t>> stretches_;
};

struct Results {
  std::vector<float> out, lse, mass;
  bool operator==(const Results&) const = default;
};

// Three sequences over scattered blocks, of which the first two share some.
class StreamedLaunch : public OnInstructionSet {
 protected:
  static constexpr std::int64_t kColumns = 60;

  // `num_open`: last blocks of each sequence that are open.
  PagedAttentionArgs args_of(const Layer& layer, const std::vector<std::int32_t>& q_lens,
                             std::int32_t num_open = 0) {
    cu_seqlens_.assign(1, 0);
    for (const std::int32_t n : q_lens) cu_seqlens_.push_back(cu_seqlens_.back() + n);
    tokens_ = cu_seqlens_.back();
    q_.resize(tokens_ * kHeads * kGroup * kHeadDim);
    std::normal_distribution<float> normal;
    for (float& x : q_) x = normal(random_);
    tables_.resize(3 * kColumns);
    std::iota(tables_.begin(), tables_.end(), 0);
    std::shuffle(tables_.begin(), tables_.end(), random_);
    std::copy_n(tables_.begin(), 20, tables_.begin() + kColumns);
    open_.resize(3 * num_open * kBlockSize * kHeads * kHeadDim);
    for (BFloat16& x : open_) x = from_float<BFloat16>(normal(random_));
    for (std::int32_t i = 0; i < 3 * num_open; ++i) {
      const std::int64_t last = (lengths_[i / num_open] - 1) / kBlockSize;
      tables_[i / num_open * kColumns + last - i % num_open] = 3 * kColumns + i;
    }
    PagedAttentionArgs args;
    args.q = contiguous_view(q_.data(), DType::float32, {tokens_, kHeads * kGroup, kHeadDim});
    args.k_cache = layer.k;
    args.v_cache = layer.v;
    if (num_open > 0) {
      args.k_open = contiguous_view(open_.data(), DType::bfloat16,
                                    {3 * num_open, kBlockSize, kHeads, kHeadDim});
      args.v_open = args.k_open;
    }
    if (layer.k.dtype != DType::float32) {
      args.k_scale = layer.k_scale;
      args.v_scale = layer.v_scale;
    }
    args.block_tables = contiguous_index_view(tables_.data(), {3, kColumns});
    args.seq_lens = contiguous_index_view(lengths_.data(), {3});
    args.cu_seqlens_q = contiguous_index_view(cu_seqlens_.data(), {4});
    return args;
  }

  Results run(PagedAttentionArgs args, int num_threads, bool wants_mass = true) {
    const std::int64_t rows = tokens_ * kHeads * kGroup;
    Results results{std::vector<float>(rows * kHeadDim, kUnwritten),
                    std::vector<float>(rows, kUnwritten),
                    std::vector<float>(wants_mass ? rows * kColumns : 0, kUnwritten)};
    args.out =
        contiguous_view(results.out.data(), DType::float32, {tokens_, kHeads * kGroup, kHeadDim});
    args.lse = results.lse.data();
    if (wants_mass) args.block_mass = results.mass.data();
    try {
      paged_attention(args, Implementation::fused, num_threads);
    } catch (const ValueError& error) {
      refusal_ = error.what();
    }
    return results;
  }

  static constexpr float kUnwritten = 77;
  std::mt19937 random_{1};
  std::int64_t tokens_ = 0;
  std::vector<float> q_;
  std::vector<BFloat16> open_;
  std::vector<std::int32_t> tables_, cu_seqlens_, lengths_{950, 17 * 16 + 3, 700};
  std::string refusal_;
};

INSTANTIATE_TEST_SUITE_P(All, StreamedLaunch, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

TEST_P(StreamedLaunch, TouchesNothingButTheStretchInUse) {
  SampledCases cases;
  for (const auto& [dtype, num_open] :
       {std::pair{DType::float32, 0}, {DType::int8, 0}, {DType::int8, 2}, {DType::int4, 2}}) {
    const Layer layer(dtype, 3 * kColumns, random_);
    for (const std::vector<std::int32_t>& q_lens :
         {std::vector{1, 1, 1}, std::vector{3, 0, 50}, std::vector{200, 1, 2}}) {
      PagedAttentionArgs args = args_of(layer, q_lens, num_open);
      for (const bool windowed : {false, true}) {
        if (windowed) {
          args.sliding_window = 300;
          args.num_sink_tokens = 21;
        }
        for (const int num_threads : {1, 3}) {
          if (!cases.takes_next()) continue;
          args.pager = nullptr;
          const Results expected = run(args, num_threads);
          Curtain curtain(layer);
          args.pager = &curtain;
          const Results results = run(args, num_threads);
          ASSERT_EQ(refusal_, "");
          EXPECT_EQ(results, expected) << name_of(dtype) << " " << q_lens[0] << " " << windowed;
          EXPECT_EQ(curtain.passes, 2);
          EXPECT_GT(curtain.num_stretches(), 3u);
          EXPECT_EQ(curtain.next, curtain.num_stretches());
        }
      }
    }
  }
}

TEST_P(StreamedLaunch, AScaleThatIsRefusedLeavesResultsAsTheyWere) {
  const Layer layer(DType::int8, 3 * kColumns, random_);
  PagedAttentionArgs args = args_of(layer, {20, 1, 4});
  for (const auto& [name, scale] :
       {std::pair{"k_scale", layer.k_scale}, std::pair{"v_scale", layer.v_scale}}) {
    for (const std::int64_t place : {0L, 44L * 16 + 5, 2 * kColumns * 16L + 43 * 16 + 11}) {
      const std::int32_t block = tables_[place / 16];
      float* const wrong = scale_at(scale, block, place % 16, 1);
      const float right = *wrong;
      *wrong = -2;
      {
        Curtain curtain(layer);
        args.pager = &curtain;
        const Results results = run(args, 2);
        for (const std::vector<float>& floats : {results.out, results.lse, results.mass}) {
          for (const float x : floats) ASSERT_EQ(x, kUnwritten);
        }
        EXPECT_EQ(refusal_, concat("paged_attention: ", name, ": got -2 at block ", block,
                                   ", offset ", place % 16,
                                   ", head 1, expected a positive finite number in each slot that "
                                   "is read"));
      }
      *wrong = right;
    }
  }
}

TEST_P(StreamedLaunch, AGridThatIsRefusedLeavesResultsAsTheyWere) {
  const Layer layer(DType::int4, 3 * kColumns, random_);
  PagedAttentionArgs args = args_of(layer, {20, 1, 4}, 2);
  const std::int32_t block = tables_[2 * kColumns + 40];
  Int4Grid* const grids[] = {&key_grids_at(layer.k_scale, block, 1)[7],
                             value_grid_at(layer.v_scale, block, 3, 1)};
  for (Int4Grid* const wrong : grids) {
    const Int4Grid right = *wrong;
    wrong->step = from_float<Float16>(-2.0f);
    {
      Curtain curtain(layer);
      args.pager = &curtain;
      const Results results = run(args, 2);
      for (const std::vector<float>& floats : {results.out, results.lse, results.mass}) {
        for (const float x : floats) ASSERT_EQ(x, kUnwritten);
      }
      EXPECT_NE(refusal_.find(concat("got a step of -2 at block ", block)), std::string::npos)
          << refusal_;
    }
    *wrong = right;
  }
}

// Slots that no query sees may hold anything, also within a stretch.
TEST_P(StreamedLaunch, ScalesThatNoQuerySeesAreNotLookedAt) {
  const Layer layer(DType::int8, 3 * kColumns, random_);
  PagedAttentionArgs args = args_of(layer, {1, 1, 2});
  args.sliding_window = 100;
  args.num_sink_tokens = 5;
  const auto spoil = [&](std::int64_t seq, std::int64_t position) {
    *scale_at(layer.k_scale, tables_[seq * kColumns + position / 16], position % 16, 0) =
        std::numeric_limits<float>::quiet_NaN();
  };
  for (const std::int64_t position : {5L, 15L, 300L, 849L, 950L}) spoil(0, position);
  for (const std::int64_t position : {598L, 700L, 703L}) spoil(2, position);
  const Results expected = run(args, 1);
  ASSERT_EQ(refusal_, "");
  Curtain curtain(layer);
  args.pager = &curtain;
  EXPECT_EQ(run(args, 1), expected);
  EXPECT_EQ(refusal_, "");
  layer.allow_all(true);
  spoil(0, 850);
  layer.allow_all(false);
  run(args, 1);
  EXPECT_NE(refusal_, "");
}

}  // namespace
}  // namespace quire::testing
