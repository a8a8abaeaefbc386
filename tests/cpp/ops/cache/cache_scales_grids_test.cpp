// Which grids of int4 caches are looked at before a result is written: those of blocks and values
// that some query sees, and none of open blocks.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "quire/base/check.h"
#include "quire/ops/cache/cache_scales.h"
#include "support/sampled_cases.h"

namespace quire {
namespace {

constexpr std::int64_t kBlocks = 4, kBlockSize = 20, kHeads = 3, kHeadDim = 38, kValueDim = 2;
constexpr std::uint16_t kOne = 0x3c00, kInfinity = 0x7c00, kNaN = 0x7e00, kLargest = 0x7bff;

// Two sequences: 70 tokens in blocks 3, 0, an open one and 2, two of them queries, and 7 in
// block 1.
class CacheGrids : public ::testing::Test {
 protected:
  CacheGrids() {
    args_.q = contiguous_view(q_.data(), DType::float32, {3, kHeads, kHeadDim});
    args_.k_cache =
        contiguous_view(codes_.data(), DType::int4, {kBlocks, kBlockSize, kHeads, kHeadDim / 2});
    args_.v_cache =
        contiguous_view(codes_.data(), DType::int4, {kBlocks, kBlockSize, kHeads, kValueDim / 2});
    args_.k_open = contiguous_view(q_.data(), DType::float32, {3, kBlockSize, kHeads, kHeadDim});
    args_.v_open = contiguous_view(q_.data(), DType::float32, {3, kBlockSize, kHeads, kValueDim});
    args_.block_tables = contiguous_index_view(tables_, {2, 4});
    args_.seq_lens = contiguous_index_view(lengths_, {2});
    args_.cu_seqlens_q = contiguous_index_view(cu_seqlens_, {3});
    args_.k_scale = contiguous_view(k_.data(), DType::float16, {kBlocks, kHeads, kHeadDim, 2});
    args_.v_scale = contiguous_view(v_.data(), DType::float16, {kBlocks, kBlockSize, kHeads, 2});
  }

  bool is_read(std::int64_t block, std::int64_t offset) const {
    const std::int64_t window = args_.sliding_window.value_or(1000);
    for (const auto& [first, length, queries] : {std::tuple{0, 70, 2}, std::tuple{4, 7, 1}}) {
      for (std::int64_t position = 0; position < length; ++position) {
        if (tables_[first + position / kBlockSize] == block && position % kBlockSize == offset) {
          return position > length - queries - window;
        }
      }
    }
    return false;
  }

  bool is_read(std::int64_t block) const {
    for (std::int64_t offset = 0; offset < kBlockSize; ++offset) {
      if (is_read(block, offset)) return true;
    }
    return false;
  }

  std::string refusal() const {
    try {
      check_dynamic_scales(args_, "f");
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  }

  // A grid that is wrong is refused with its place where it is read, and found in its heads alone.
  void expect(Int4Grid& grid, bool read, std::int64_t head, const std::string& message) {
    const Int4Grid good = grid;
    for (const bool of_step : {true, false}) {
      (of_step ? grid.step : grid.middle) = {kNaN};
      const std::string all =
          concat("f: ", message.substr(0, 9), of_step ? "got a step of nan" : "got a middle of nan",
                 message.substr(9), ", expected a ", of_step ? "positive finite" : "finite",
                 " number in each ", message[0] == 'k' ? "block" : "slot", " that is read");
      ASSERT_EQ(refusal(), read ? all : "");
      for (std::int64_t first = 0; first < kHeads; ++first) {
        bool sound = true;
        for (const SequenceKeys& some : seen_) {
          sound &= dynamic_scales_are_sound(args_, some, first, first + 1);
        }
        ASSERT_EQ(sound, !(read && first == head));
      }
      grid = good;
    }
  }

  void expect_exactly_the_read_ones() {
    for (std::int64_t block = 0; block < kBlocks; ++block) {
      for (std::int64_t head = 0; head < kHeads; ++head) {
        for (std::int64_t channel = 0; channel < kHeadDim; ++channel) {
          expect(key_grids_at(*args_.k_scale, block, head)[channel], is_read(block), head,
                 concat("k_scale: ", " at block ", block, ", head ", head, ", channel ", channel));
        }
        for (std::int64_t offset = 0; offset < kBlockSize; ++offset) {
          expect(*value_grid_at(*args_.v_scale, block, offset, head), is_read(block, offset), head,
                 concat("v_scale: ", " at block ", block, ", offset ", offset, ", head ", head));
        }
      }
    }
  }

  std::vector<float> q_ = std::vector<float>(3 * kBlockSize * kHeads * kHeadDim);
  std::vector<std::byte> codes_ = std::vector<std::byte>(kBlocks * kBlockSize * kHeads * kHeadDim);
  std::int32_t tables_[8] = {3, 0, 6, 2, 1, -7, 99, 99};
  std::int32_t lengths_[2] = {70, 7};
  std::int32_t cu_seqlens_[3] = {0, 2, 3};
  std::vector<SequenceKeys> seen_ = {{0, {0, 70}}, {1, {0, 7}}};
  std::vector<Int4Grid> k_ = std::vector<Int4Grid>(kBlocks * kHeads * kHeadDim, {{kOne}, {0}});
  std::vector<Int4Grid> v_ = std::vector<Int4Grid>(kBlocks * kBlockSize * kHeads, {{kOne}, {0}});
  PagedAttentionArgs args_;
};

TEST_F(CacheGrids, EveryOneThatIsRead) { expect_exactly_the_read_ones(); }

TEST_F(CacheGrids, OnlyThoseOfTheWindow) {
  args_.sliding_window = 25;
  seen_ = {{0, {44, 70}}, {1, {0, 7}}};
  expect_exactly_the_read_ones();
}

// As in a pool: heads far apart, and in each its tokens one after the other.
TEST_F(CacheGrids, OfHeadsThatLieApart) {
  args_.v_scale->strides = {kBlockSize * kHeads * 4, 4, kBlockSize * 4, 2};
  args_.k_scale->strides = {4 * kHeadDim, 4 * kHeadDim * kBlocks, 4, 2};
  expect_exactly_the_read_ones();
}

TEST_F(CacheGrids, EveryStepAndMiddle) {
  testing::SampledCases cases;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bool is_edge = bits % 0x400 < 2 || bits % 0x400 == 0x3ff;  // of numbers of one exponent
    if (!cases.takes_next() && !is_edge) continue;
    const Float16 number{static_cast<std::uint16_t>(bits)};
    const bool finite = (bits & 0x7fff) <= kLargest;
    // among sixteen that are looked at together, and after them
    for (Int4Grid* grid : {&k_[3], &k_[kHeadDim - 1], &v_[5]}) {
      *grid = {number, {kOne}};
      ASSERT_EQ(refusal() == "", bits > 0 && bits < kInfinity) << bits;
      *grid = {{kOne}, number};
      ASSERT_EQ(refusal() == "", finite) << bits;
      *grid = {{kOne}, {0}};
    }
  }
}

TEST_F(CacheGrids, AreDynamic) {
  EXPECT_TRUE(has_dynamic_scales(args_));
  args_.k_scale.reset();
  EXPECT_TRUE(has_dynamic_scales(args_));
  args_.v_scale.reset();
  EXPECT_FALSE(has_dynamic_scales(args_));
}

}  // namespace
}  // namespace quire
