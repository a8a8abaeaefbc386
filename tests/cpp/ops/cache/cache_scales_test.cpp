// Which scales are looked at before a result is written: those of keys that some query sees, and no
// others. Scales of each sequence, and which sequences have the same.
#include "quire/ops/cache/cache_scales.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "quire/base/check.h"

namespace quire {
namespace {

constexpr std::int64_t kBlocks = 5, kBlockSize = 20, kHeads = 3;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Two sequences: 50 tokens in blocks 3, 0 and 4, two of them queries, and 7 in block 1.
class CacheScales : public ::testing::Test {
 protected:
  CacheScales() {
    args_.q = contiguous_view(q_, DType::float32, {3, kHeads, 1});
    args_.k_cache = contiguous_view(cache_, DType::int8, {kBlocks, kBlockSize, kHeads, 1});
    args_.v_cache = args_.k_cache;
    args_.block_tables = contiguous_index_view(tables_, {2, 3});
    args_.seq_lens = contiguous_index_view(lengths_, {2});
    args_.cu_seqlens_q = contiguous_index_view(cu_seqlens_, {3});
    args_.k_scale = contiguous_view(k_.data(), DType::float32, {kBlocks, kBlockSize, kHeads});
    // heads lie apart, as in a pool
    args_.v_scale = contiguous_view(v_.data(), DType::float32, {kBlocks, kBlockSize, kHeads});
    args_.v_scale->strides = {kBlockSize * kHeads * 4, 4, kBlockSize * 4};
  }

  bool is_read(std::int64_t block, std::int64_t offset) const {
    const std::int64_t window = args_.sliding_window.value_or(1000);
    for (const auto& [first, sequence, length, queries] :
         {std::tuple{0, 0, 50, 2}, std::tuple{3, 1, 7, 1}}) {
      for (std::int64_t position = 0; position < length; ++position) {
        if (tables_[first + position / kBlockSize] == block && position % kBlockSize == offset) {
          return position > length - queries - window;
        }
      }
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

  // Every slot and head in turn, in both arrays.
  void expect_exactly_the_read_ones(float wrong, const std::string& text) {
    for (const auto& [name, scale] :
         {std::pair{"k_scale", &args_.k_scale}, std::pair{"v_scale", &args_.v_scale}}) {
      for (std::int64_t block = 0; block < kBlocks; ++block) {
        for (std::int64_t offset = 0; offset < kBlockSize; ++offset) {
          for (std::int64_t head = 0; head < kHeads; ++head) {
            float* const place = scale_at(**scale, block, offset, head);
            *place = wrong;
            EXPECT_EQ(refusal(),
                      is_read(block, offset)
                          ? concat("f: ", name, ": got ", text, " at block ", block, ", offset ",
                                   offset, ", head ", head,
                                   ", expected a positive finite number in each slot that is read")
                          : "");
            *place = 1;
          }
        }
      }
    }
  }

  float q_[9] = {};
  std::int8_t cache_[kBlocks * kBlockSize * kHeads] = {};
  std::int32_t tables_[6] = {3, 0, 4, 1, -7, 99};
  std::int32_t lengths_[2] = {50, 7};
  std::int32_t cu_seqlens_[3] = {0, 2, 3};
  std::vector<float> k_ = std::vector<float>(kBlocks * kBlockSize * kHeads, 1.0f), v_ = k_;
  PagedAttentionArgs args_;
};

TEST_F(CacheScales, EverySlotThatIsRead) { expect_exactly_the_read_ones(kNaN, "nan"); }

TEST_F(CacheScales, OnlyThoseOfTheWindow) {
  args_.sliding_window = 25;
  expect_exactly_the_read_ones(-2, "-2");
}

TEST_F(CacheScales, WhatIsPositiveAndFinite) {
  using Limits = std::numeric_limits<float>;
  for (const float good : {Limits::denorm_min(), Limits::min(), 1.0f, Limits::max()}) {
    k_.assign(k_.size(), good);
    EXPECT_EQ(refusal(), "");
  }
  for (const float bad : {0.0f, -0.0f, -Limits::denorm_min(), -1.0f, -Limits::max(),
                          Limits::infinity(), -Limits::infinity(), kNaN, -kNaN}) {
    k_.assign(k_.size(), bad);
    EXPECT_NE(refusal(), "") << bad;
  }
}

TEST_F(CacheScales, SequencesWithoutQueriesAreNotRead) {
  cu_seqlens_[1] = 0;
  cu_seqlens_[2] = 1;
  k_.assign(k_.size(), kNaN);
  for (std::int64_t i = 0; i < kBlockSize * kHeads; ++i) k_[kBlockSize * kHeads + i] = 1;
  EXPECT_EQ(refusal(), "");
}

TEST_F(CacheScales, OneForAllAndOneForEachHead) {
  std::vector<float> scales = {2, 3, 5};
  const ArrayView heads = view_of(scales, {3}), one = view_of(scales, {1});
  const ArrayView number = contiguous_view(scales.data(), DType::float32, {});
  for (std::int64_t head = 0; head < kHeads; ++head) {
    EXPECT_EQ(*scale_at(heads, 4, 7, head), scales[static_cast<std::size_t>(head)]);
    EXPECT_EQ(*scale_at(one, 4, 7, head), 2);
    EXPECT_EQ(*scale_at(number, 4, 7, head), 2);
  }
  EXPECT_EQ(scale_of_sequence(heads, 1).data, heads.data);  // everybody's
}

// Sequences 0 and 2 agree in both, 1 and 3 in keys alone.
TEST_F(CacheScales, OfEachSequence) {
  std::vector<float> k = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6};
  std::vector<float> v = {7, 8, 9, 7, 8, 9, 7, 8, 9, 7, 8, 1};
  std::int32_t lengths[4] = {};
  args_.seq_lens = contiguous_index_view(lengths, {4});
  EXPECT_TRUE(sequences_by_scales(args_).empty());  // of each slot
  args_.k_scale = view_of(k, {4, kHeads});
  args_.v_scale = view_of(v, {4, kHeads});
  EXPECT_FALSE(has_dynamic_scales(args_));
  for (std::int64_t seq = 0; seq < 4; ++seq) {
    const ArrayView own = scale_of_sequence(*args_.k_scale, seq);
    EXPECT_EQ(own.ndim, 1);
    for (std::int64_t head = 0; head < kHeads; ++head) {
      EXPECT_EQ(*scale_at(own, 0, 0, head), k[static_cast<std::size_t>(seq * kHeads + head)]);
    }
  }
  using Sequences = std::vector<std::int64_t>;
  EXPECT_EQ(sequences_by_scales(args_), (Sequences{0, 1, 0, 3}));
  args_.v_scale = contiguous_view(v.data(), DType::float32, {});
  EXPECT_EQ(sequences_by_scales(args_), (Sequences{0, 1, 0, 1}));
  args_.k_scale->strides = {};  // one number for all
  EXPECT_TRUE(sequences_by_scales(args_).empty());
}

}  // namespace
}  // namespace quire
