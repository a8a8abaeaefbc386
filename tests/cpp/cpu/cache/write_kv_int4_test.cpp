// write_kv into int4 caches on every instruction set: each block as kPlainSealing makes
// it of its rows, rows of open blocks as plain floats, nothing else touched.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

#include "quire/base/check.h"
#include "quire/cpu/operations.h"
#include "quire/format/int4_grid.h"
#include "quire/format/row_sealing.h"
#include "support/attention_problem.h"
#include "support/with_instruction_set.h"

namespace quire::testing {
namespace {

// Caches and open blocks in both layouts, all bytes 0xa5 before.
struct Stores {
  Stores(std::int64_t blocks, std::int64_t open, std::int64_t size, std::int64_t count,
         std::int64_t dim, std::int64_t v_dim, DType dtype, Layout order)
      : num_blocks(blocks), block_size(size), heads(count), layout(order) {
    const auto shape = [&](std::int64_t number, std::int64_t last) {
      return order == Layout::NHD ? std::vector{number, size, count, last}
                                  : std::vector{number, count, size, last};
    };
    k_cache = Array(DType::int4, shape(blocks, dim / 2));
    v_cache = Array(DType::int4, shape(blocks, v_dim / 2));
    k_scale = Array(DType::float16, {blocks, count, dim, 2});
    v_scale = Array(DType::float16, {blocks, size, count, 2});
    k_open = Array(dtype, shape(open, dim));
    v_open = Array(dtype, shape(open, v_dim));
    for (Array* array : all()) {
      std::fill(array->bytes.begin(), array->bytes.end(), std::byte{0xa5});
    }
  }

  std::vector<Array*> all() { return {&k_cache, &v_cache, &k_scale, &v_scale, &k_open, &v_open}; }

  WriteKvArgs args(Array& k, Array& v, const std::vector<std::int64_t>& slots) {
    WriteKvArgs args{k.view(),
                     v.view(),
                     k_cache.view(),
                     v_cache.view(),
                     contiguous_index_view(slots.data(), {static_cast<std::int64_t>(slots.size())}),
                     layout,
                     k_scale.view(),
                     v_scale.view()};
    args.k_open = k_open.view();
    args.v_open = v_open.view();
    return args;
  }

  std::byte* row(Array& array, std::int64_t block, std::int64_t offset, std::int64_t head) const {
    const ArrayView view = array.view();
    return layout == Layout::NHD ? view.at(block, offset, head) : view.at(block, head, offset);
  }

  std::int64_t num_blocks, block_size, heads;
  Layout layout;
  Array k_cache, v_cache, k_scale, v_scale, k_open, v_open;
};

// `count` rows of as many floats each, one after the other.
RowsToSeal rows_of(const std::vector<float>& floats, std::int64_t count) {
  const std::int64_t length = std::ssize(floats) / count;
  return {reinterpret_cast<const std::byte*>(floats.data()),
          length * static_cast<std::int64_t>(sizeof(float)), DType::float32, count, length};
}

std::vector<float> floats(const Array& rows, std::int64_t row, std::int64_t head) {
  const std::int64_t dim = rows.shape[2];
  std::vector<float> all(static_cast<std::size_t>(dim));
  for (std::int64_t d = 0; d < dim; ++d) {
    all[d] = static_cast<float>(rows.get((row * rows.shape[1] + head) * dim + d));
  }
  return all;
}

// What is documented, a row at a time.
void write_plainly(Stores& to, const Array& k, const Array& v,
                   const std::vector<std::int64_t>& slots) {
  std::map<std::int64_t, std::int64_t> last;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] >= 0) last[slots[i]] = static_cast<std::int64_t>(i);
  }
  for (std::int64_t head = 0; head < to.heads; ++head) {
    std::vector<float> keys;
    for (const auto& [slot, row] : last) {  // growing
      const std::int64_t block = slot / to.block_size, offset = slot % to.block_size;
      const std::vector<float> key = floats(k, row, head), value = floats(v, row, head);
      if (block >= to.num_blocks) {
        for (const auto& [open, numbers] : {std::pair{&to.k_open, &key}, {&to.v_open, &value}}) {
          std::byte* const at = to.row(*open, block - to.num_blocks, offset, head);
          for (std::size_t d = 0; d < numbers->size(); ++d) {
            visit_dtype(open->dtype, [&](auto type) {
              using T = decltype(type);
              reinterpret_cast<T*>(at)[d] = from_float<T>((*numbers)[d]);
            });
          }
        }
        continue;
      }
      kPlainSealing.values(rows_of(value, 1), {to.row(to.v_cache, block, offset, head), 0,
                                               to.v_scale.view().at(block, offset, head), 0});
      keys.insert(keys.end(), key.begin(), key.end());
      if (offset + 1 < to.block_size) continue;
      const std::int64_t stride = to.k_cache.view().strides[to.layout == Layout::NHD ? 1 : 2];
      kPlainSealing.keys(rows_of(keys, to.block_size), {to.row(to.k_cache, block, 0, head), stride,
                                                        to.k_scale.view().at(block, head), 0});
      keys.clear();
    }
  }
}

TEST(WriteKvInt4, AsSealedBlockByBlockOnEveryInstructionSet) {
  std::mt19937 random(1);
  const auto pick = [&](auto... choices) {
    const std::int64_t all[] = {choices...};
    return all[random() % sizeof...(choices)];
  };
  for (const std::string_view name : available_instruction_sets()) {
    const WithInstructionSet on_it(name);
    for (int trial = 0; trial < 60; ++trial) {
      const std::int64_t block_size = pick(1, 3, 16, 100), heads = pick(1, 2), open = pick(0, 2, 5);
      const std::int64_t dim = pick(2, 8, 66, 128), v_dim = pick(2, 40, 130);
      const DType dtype = kDTypes[random() % 3];
      const Layout layout = random() % 2 == 0 ? Layout::NHD : Layout::HND;
      Stores expected(7, open, block_size, heads, dim, v_dim, dtype, layout);
      Stores stores = expected;
      std::vector<std::int64_t> slots{-1};
      for (const std::int64_t block : {pick(0, 1, 2), pick(3, 4), pick(5, 6)}) {
        for (std::int64_t i = 0; i < block_size; ++i) slots.push_back(block * block_size + i);
      }
      slots.push_back(slots.back());  // of rows with one slot the last wins
      for (std::int64_t i = 0; i < 4 * open; ++i) {
        slots.push_back(7 * block_size + static_cast<std::int64_t>(random()) % (open * block_size));
      }
      if (random() % 4 > 0) std::shuffle(slots.begin(), slots.end(), random);
      const auto rows = static_cast<std::int64_t>(slots.size());
      Array k(kDTypes[random() % 3], {rows, heads, dim});
      Array v(kDTypes[random() % 3], {rows, heads, v_dim});
      std::normal_distribution<float> normal(0, static_cast<float>(pick(1, 1000)));
      for (Array* array : {&k, &v}) {
        for (std::int64_t i = 0; i < array->size(); ++i) array->set(i, normal(random));
      }
      write_plainly(expected, k, v, slots);
      write_kv(stores.args(k, v, slots), static_cast<int>(pick(1, 2, 5)));
      for (std::size_t i = 0; i < 6; ++i) {
        ASSERT_TRUE(stores.all()[i]->bytes == expected.all()[i]->bytes)
            << name << " " << trial << " " << i;
      }
    }
  }
}

TEST(WriteKvInt4, ThreadsWriteTheSameBytes) {
  std::mt19937 random(2);
  Stores expected(60, 40, 16, 2, 64, 32, DType::bfloat16, Layout::HND);
  std::vector<std::int64_t> slots(100 * 16);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), random);
  slots.insert(slots.end(), slots.begin(), slots.begin() + 200);  // of which the last wins
  const auto rows = static_cast<std::int64_t>(slots.size());
  Array k(DType::float32, {rows, 2, 64}), v(DType::float16, {rows, 2, 32});
  std::normal_distribution<float> normal;
  for (Array* array : {&k, &v}) {
    for (std::int64_t i = 0; i < array->size(); ++i) array->set(i, normal(random));
  }
  const Stores empty = expected;
  write_plainly(expected, k, v, slots);
  for (const int num_threads : {1, 2, 5}) {
    Stores stores = empty;
    write_kv(stores.args(k, v, slots), num_threads);
    for (std::size_t i = 0; i < 6; ++i) {
      ASSERT_TRUE(stores.all()[i]->bytes == expected.all()[i]->bytes) << num_threads << " " << i;
    }
  }
}

TEST(WriteKvInt4, WhatIsRefusedChangesNothing) {
  Stores stores(3, 2, 4, 1, 6, 2, DType::float16, Layout::NHD);
  const Stores before = stores;
  Array k(DType::float32, {5, 1, 6}), v(DType::float32, {5, 1, 2});
  const auto refused = [&](const std::vector<std::int64_t>& slots) -> std::string {
    try {
      write_kv(stores.args(k, v, slots));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto is_untouched = [&] {
    Stores copy = before;
    for (std::size_t i = 0; i < 6; ++i) {
      if (stores.all()[i]->bytes != copy.all()[i]->bytes) return false;
    }
    return true;
  };
  EXPECT_NE(refused({12, 20, 13, 14, 15}).find("slot_mapping: got 20 at row 1"), std::string::npos);
  EXPECT_NE(refused({12, 4, 5, 6, 13}).find("some slots of block 1, the first at row 1"),
            std::string::npos);
  EXPECT_NE(refused({4, 4, 5, 6, 6}).find("some slots of block 1"), std::string::npos);
  v.set(9, 65520.0f);
  EXPECT_EQ(refused({4, 5, 6, 7, 12}),
            "write_kv: v: got 65520 at row 4, head 0, element 1, which goes to slot 12, expected "
            "finite numbers of at most 65504 in magnitude for a cache of int4");
  v.set(9, 1.0f);
  stores.k_open.dtype = DType::int8;
  stores.k_open.shape[0] = 2 * stores.k_open.shape[0];
  stores.v_open.shape[0] = 1;
  EXPECT_EQ(refused({4, 5, 6, 7, 12}),
            "write_kv: k_open: got int8, expected float32, float16 or bfloat16");
  stores.k_open = before.k_open;
  EXPECT_NE(refused({4, 5, 6, 7, 12}).find("v_open: got shape [1, 4, 1, 2]"), std::string::npos);
  stores.v_open = before.v_open;
  EXPECT_TRUE(is_untouched());
  EXPECT_EQ(refused({4, 5, 6, 7, -1}), "");
  EXPECT_FALSE(is_untouched());
}

}  // namespace
}  // namespace quire::testing
