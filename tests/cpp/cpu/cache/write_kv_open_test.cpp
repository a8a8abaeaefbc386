// write_kv into int8 and float8 caches with open blocks beside them: rows of sealed blocks as
// without open ones, those of open blocks as in a cache of plain floats.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "quire/base/check.h"
#include "quire/cpu/operations.h"
#include "support/attention_problem.h"
#include "support/with_instruction_set.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kBlocks = 4, kOpen = 3, kSize = 4, kHeads = 2, kDim = 19, kValueDim = 33;

// All bytes 0xa5 before.
struct Stores {
  Stores(DType dtype, DType open, Layout order, bool is_static) : layout(order) {
    const auto shape = [&](std::int64_t number, std::int64_t last) {
      return order == Layout::NHD ? std::vector{number, kSize, kHeads, last}
                                  : std::vector{number, kHeads, kSize, last};
    };
    k_cache = Array(dtype, shape(kBlocks, kDim));
    v_cache = Array(dtype, shape(kBlocks, kValueDim));
    const std::vector scales =
        is_static ? std::vector{kHeads} : std::vector{kBlocks, kSize, kHeads};
    k_scale = Array(DType::float32, scales);
    v_scale = Array(DType::float32, scales);
    k_open = Array(open, shape(kOpen, kDim));
    v_open = Array(open, shape(kOpen, kValueDim));
    for (Array* array : all()) {
      std::fill(array->bytes.begin(), array->bytes.end(), std::byte{0xa5});
    }
    for (std::int64_t i = 0; is_static && i < kHeads; ++i) {
      k_scale.set(i, 0.01f);
      v_scale.set(i, 0.02f);
    }
  }

  std::vector<Array*> all() { return {&k_cache, &v_cache, &k_scale, &v_scale, &k_open, &v_open}; }

  WriteKvArgs args(Array& k, Array& v, const std::vector<std::int64_t>& slots) {
    WriteKvArgs args = closed_args(k, v, slots);
    args.k_open = k_open.view();
    args.v_open = v_open.view();
    return args;
  }
  WriteKvArgs closed_args(Array& k, Array& v, const std::vector<std::int64_t>& slots) {
    return {k.view(),
            v.view(),
            k_cache.view(),
            v_cache.view(),
            contiguous_index_view(slots.data(), {static_cast<std::int64_t>(slots.size())}),
            layout,
            k_scale.view(),
            v_scale.view()};
  }
  // The open blocks as a cache of their own.
  WriteKvArgs open_args(Array& k, Array& v, const std::vector<std::int64_t>& slots) {
    WriteKvArgs args = closed_args(k, v, slots);
    args.k_cache = k_open.view();
    args.v_cache = v_open.view();
    args.k_scale = args.v_scale = std::nullopt;
    return args;
  }

  std::vector<std::vector<std::byte>> bytes() {
    std::vector<std::vector<std::byte>> bytes;
    for (const Array* array : all()) bytes.push_back(array->bytes);
    return bytes;
  }

  Layout layout;
  Array k_cache, v_cache, k_scale, v_scale, k_open, v_open;
};

Array drawn(std::mt19937& random, DType dtype, std::int64_t rows, std::int64_t dim) {
  Array array(dtype, {rows, kHeads, dim});
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < array.size(); ++i) array.set(i, normal(random));
  return array;
}

TEST(WriteKvOpen, EachRowAsInACacheOfItsOwn) {
  constexpr std::int64_t kFirstOpen = kBlocks * kSize, kSlots = (kBlocks + kOpen) * kSize;
  for (const std::string_view name : available_instruction_sets()) {
    const WithInstructionSet on_it(name);
    for (unsigned trial = 0; trial < 48; ++trial) {
      std::mt19937 random(trial);
      const DType dtype = kQuantisedDTypes[trial % 2];
      const DType open = kDTypes[trial / 2 % 3];
      const Layout layout = trial / 6 % 2 ? Layout::HND : Layout::NHD;
      const bool is_static = trial / 12 % 2;
      const std::int64_t rows = trial % 5 == 0 ? 0 : 30;
      Array k = drawn(random, kDTypes[trial % 3], rows, kDim);
      Array v = drawn(random, kDTypes[trial % 3], rows, kValueDim);
      std::vector<std::int64_t> slots(static_cast<std::size_t>(rows)), sealed, opened;
      for (std::int64_t& slot : slots) {  // some twice, some not at all
        slot = static_cast<std::int64_t>(random() % (kSlots + 1)) - 1;
        sealed.push_back(slot < kFirstOpen ? slot : -1);
        opened.push_back(slot < kFirstOpen ? -1 : slot - kFirstOpen);
      }
      Stores expected(dtype, open, layout, is_static), got(dtype, open, layout, is_static);
      write_kv(expected.closed_args(k, v, sealed), 1);
      write_kv(expected.open_args(k, v, opened), 1);
      write_kv(got.args(k, v, slots), 1 + static_cast<int>(trial % 3));
      ASSERT_EQ(got.bytes(), expected.bytes()) << name << ", trial " << trial;
    }
  }
}

// What is refused in the last row, after rows of both kinds, has written nothing.
TEST(WriteKvOpen, WhatIsNotFiniteIsRefusedBeforeAnythingIsWritten) {
  constexpr float kMax = std::numeric_limits<float>::max();
  const std::vector<std::int64_t> slots = {0, 17, 1, 18};
  for (const DType dtype : kQuantisedDTypes) {
    for (const bool of_keys : {true, false}) {
      for (const std::int64_t row : {2, 3}) {
        for (const float wrong : {kNaN, -kInfinity, kMax}) {
          if (wrong == kMax && row == 2) continue;  // in a sealed block any scale will do
          std::mt19937 random(1);
          Array k = drawn(random, DType::float32, 4, kDim);
          Array v = drawn(random, DType::float32, 4, kValueDim);
          Array& rows = of_keys ? k : v;
          rows.set((row * kHeads + 1) * rows.shape[2] + 5, wrong);
          Stores stores(dtype, DType::bfloat16, Layout::NHD, false);
          const auto before = stores.bytes();
          try {
            write_kv(stores.args(k, v, slots), 1);
            FAIL() << row << " " << wrong;
          } catch (const ValueError& error) {
            const std::string text = error.what();
            EXPECT_EQ(text.find(of_keys ? "write_kv: k: got" : "write_kv: v: got"), 0) << text;
            const std::string where =
                concat("at row ", row, ", head 1, element 5, which goes to slot ", slots[row]);
            EXPECT_NE(text.find(where), std::string::npos) << text;
          }
          EXPECT_EQ(stores.bytes(), before);
        }
      }
    }
  }
}

// A float16 has less room than the row that is quantised beside it.
TEST(WriteKvOpen, LargeNumbersGoWhereTheyFit) {
  std::mt19937 random(1);
  Array k = drawn(random, DType::float32, 1, kDim), v = drawn(random, DType::float32, 1, kValueDim);
  k.set(0, 1e6f);
  Stores stores(DType::int8, DType::float16, Layout::NHD, false);
  write_kv(stores.args(k, v, {3}), 1);
  EXPECT_THROW(write_kv(stores.args(k, v, {16}), 1), ValueError);
  Stores wide(DType::int8, DType::bfloat16, Layout::NHD, false);
  write_kv(wide.args(k, v, {16}), 1);
  EXPECT_NEAR(wide.k_open.get(0), 1e6, 4000);
}

}  // namespace
}  // namespace quire::testing
