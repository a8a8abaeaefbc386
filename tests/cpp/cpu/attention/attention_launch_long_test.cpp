// Sequences of many keys: what is summed over all of them is as exact as over a few. On every
// instruction set.
#include <cmath>
#include <cstring>

#include "quire/base/check.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kBlocks = 4, kBlockSize = 64, kDim = 8;
constexpr std::int64_t kManyKeys = 256000;  // the next block comes amidst a part of them
constexpr double kTolerance = 1e-5;         // of each result

struct Kind {
  DType dtype;
  std::int64_t group;  // query rows: few, which are read directly, or many, for packed keys
};

// Four blocks, and sequences that go through them: one time, or very often, all of a block's before
// the next one's, which has the same result.
class LongSequence {
 public:
  // `step`: of scores, from the keys of a block to those of the next. Values are the same for all
  // keys, or random.
  LongSequence(const Kind& kind, double step, bool has_same_values, unsigned seed)
      : kind_(kind),
        random_(seed),
        q_(kind.group * kDim),
        out_(kind.group * kDim),
        lse_(kind.group) {
    std::uniform_real_distribution<float> uniform(0.1f, 1.0f);
    std::vector<float> key(kDim), value(kDim);
    for (float& x : key) x = uniform(random_);
    for (float& x : value) x = uniform(random_);
    for (std::int64_t row = 0; row < kind.group; ++row) {
      // all rows' scores of the first block are sqrt(kDim)
      double product = 0;
      for (std::int64_t d = 0; d < kDim; ++d) {
        product += (q_[row * kDim + d] = uniform(random_)) * key[d];
      }
      for (std::int64_t d = 0; d < kDim; ++d) {
        q_[row * kDim + d] *= static_cast<float>(kDim / product);
      }
    }
    for (std::int64_t row = 0; row < kBlocks * kBlockSize; ++row) {
      const auto factor = static_cast<float>(1 + step / std::sqrt(kDim) * (row / kBlockSize));
      for (const float x : key) k_.push_back(x * factor);
      for (const float x : value) v_.push_back(has_same_values ? x : uniform(random_));
    }
    store();
  }

  PagedAttentionArgs args(std::int64_t num_keys) {
    table_.clear();
    for (std::int64_t i = 0; i < num_keys / kBlockSize; ++i) {
      table_.push_back(static_cast<std::int32_t>(i * kBlocks * kBlockSize / num_keys));
    }
    length_ = num_keys;
    PagedAttentionArgs args;
    args.q = contiguous_view(q_.data(), DType::float32, {1, kind_.group, kDim});
    args.k_cache = k_cache_.view();
    args.v_cache = v_cache_.view();
    if (is_quantised(kind_.dtype)) {
      args.k_scale = k_scale_.view();
      args.v_scale = v_scale_.view();
    }
    args.block_tables = contiguous_index_view(table_.data(), {1, std::ssize(table_)});
    args.seq_lens = contiguous_index_view(&length_, {1});
    args.out = contiguous_view(out_.data(), DType::float32, {1, kind_.group, kDim});
    args.lse = lse_.data();
    return args;
  }

  // Of many keys, against what the reference makes of a few.
  void expect_as_of_few(Implementation implementation) {
    const PagedAttentionArgs few = args(kBlocks * kBlockSize);
    paged_attention(few, Implementation::dense);
    const std::vector<float> out = out_, lse = lse_;
    paged_attention(args(kManyKeys), implementation);
    for (std::size_t i = 0; i < out.size(); ++i) {
      ASSERT_NEAR(out_[i], out[i], kTolerance * std::abs(out[i])) << name_of(implementation);
    }
    for (std::size_t i = 0; i < lse.size(); ++i) {
      const double more = std::log(kManyKeys / (kBlocks * kBlockSize));
      ASSERT_NEAR(lse_[i], lse[i] + more, kTolerance * (1 + lse[i])) << name_of(implementation);
    }
  }

  std::vector<float>& out() { return out_; }

 private:
  void store() {
    const DType dtype = kind_.dtype;
    const std::int64_t numbers = kDim / numbers_of(dtype);
    k_cache_ = v_cache_ = Array(dtype, {kBlocks, kBlockSize, 1, numbers});
    k_scale_ = v_scale_ = Array(DType::float32, {kBlocks, kBlockSize, 1});
    if (dtype == DType::int4) {
      k_scale_ = Array(DType::float16, {kBlocks, 1, kDim, 2});
      v_scale_ = Array(DType::float16, {kBlocks, kBlockSize, 1, 2});
    }
    std::vector<std::int64_t> slots(kBlocks * kBlockSize);
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<std::int64_t>(i);
    WriteKvArgs args{
        contiguous_view(k_.data(), DType::float32, {std::ssize(slots), 1, kDim}),
        contiguous_view(v_.data(), DType::float32, {std::ssize(slots), 1, kDim}),
        k_cache_.view(),
        v_cache_.view(),
        contiguous_index_view(slots.data(), {std::ssize(slots)}),
    };
    if (is_quantised(dtype)) {
      args.k_scale = k_scale_.view();
      args.v_scale = v_scale_.view();
    }
    write_kv(args, 1);
  }

  const Kind kind_;
  std::mt19937 random_;
  std::vector<float> q_, k_, v_, out_, lse_;
  Array k_cache_, v_cache_, k_scale_, v_scale_;
  std::vector<std::int32_t> table_;
  std::int64_t length_ = 0;
};

constexpr Kind kKinds[] = {{DType::float32, 1},       {DType::float32, 12},    {DType::bfloat16, 2},
                           {DType::float16, 4},       {DType::int8, 1},        {DType::int8, 12},
                           {DType::float8_e4m3fn, 1}, {DType::float8_e5m2, 1}, {DType::int4, 1},
                           {DType::int4, 20}};

class LongAttention : public OnInstructionSet {
 protected:
  // `of_sample`: seeds with which all tests together try every kind.
  void expect_as_of_few(double step, bool has_same_values, unsigned of_sample) {
    SampledCases cases(of_sample);
    unsigned seed = 1;
    for (const Kind& kind : kKinds) {
      SCOPED_TRACE(concat(name_of(kind.dtype), ", ", kind.group, " rows"));
      const unsigned its_seed = seed++;
      if (!cases.takes_next()) continue;
      LongSequence sequence(kind, step, has_same_values, its_seed);
      sequence.expect_as_of_few(Implementation::fused);
      if (kind.group == 1) sequence.expect_as_of_few(Implementation::gather);
      if (HasFatalFailure()) return;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(All, LongAttention, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

// Equal numbers are rounded by the same each time that one is added.
TEST_P(LongAttention, EqualKeysAndValues) { expect_as_of_few(0, true, 1); }

TEST_P(LongAttention, EqualKeys) { expect_as_of_few(0, false, 6); }

// What has been added up shrinks when larger scores come.
TEST_P(LongAttention, ScoresThatGrow) { expect_as_of_few(6.5, false, 3); }

TEST_P(LongAttention, ScoresThatFall) { expect_as_of_few(-0.7, false, 4); }

// The same bits on any number of threads, and in a batch that shares its keys.
TEST_P(LongAttention, BitsDoNotDependOnBatchOrThreads) {
  LongSequence sequence({DType::float32, 3}, 6.5, false, 1);
  const PagedAttentionArgs args = sequence.args(kManyKeys);
  paged_attention(args, Implementation::fused, 1);
  const std::vector<float> expected = sequence.out();
  paged_attention(args, Implementation::fused, 3);
  ASSERT_EQ(sequence.out(), expected);
  PagedAttentionArgs twice = args;
  std::vector<float> q(2 * expected.size()), out(q.size()), lse(6);
  std::memcpy(q.data(), args.q.data, expected.size() * sizeof(float));
  std::memcpy(q.data() + expected.size(), args.q.data, expected.size() * sizeof(float));
  twice.q = contiguous_view(q.data(), DType::float32, {2, 3, kDim});
  twice.out = contiguous_view(out.data(), DType::float32, {2, 3, kDim});
  twice.lse = lse.data();
  for (IndexView* view : {&twice.block_tables, &twice.seq_lens}) {
    view->shape[0] = 2;
    view->strides[0] = 0;
  }
  paged_attention(twice, Implementation::fused, 2);
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], expected[i % expected.size()]);
}

}  // namespace
}  // namespace quire::testing
