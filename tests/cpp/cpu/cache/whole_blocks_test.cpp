// Rows of whole blocks, straight into sealed ones: the bits of rows that were rounded, written open
// and sealed, on every instruction set and any number of threads.
#include "quire/cpu/cache/whole_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>

#include "support/attention_problem.h"
#include "support/on_instruction_set.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kBlocksOfCache = 9;

struct Caches {
  Caches(DType dtype, std::int64_t block_size, std::int64_t heads, std::int64_t dim,
         std::int64_t v_dim) {
    const bool is_int4 = dtype == DType::int4;
    const auto shape = [&](std::int64_t last) {
      return std::vector{kBlocksOfCache, block_size, heads, is_int4 ? last / 2 : last};
    };
    k = Array(dtype, shape(dim));
    v = Array(dtype, shape(v_dim));
    if (is_int4) {
      k_scale = Array(DType::float16, {kBlocksOfCache, heads, dim, 2});
      v_scale = Array(DType::float16, {kBlocksOfCache, block_size, heads, 2});
    } else {
      k_scale = Array(DType::float32, {kBlocksOfCache, block_size, heads});
      v_scale = Array(DType::float32, {kBlocksOfCache, block_size, heads});
    }
    for (Array* array : all()) {
      std::fill(array->bytes.begin(), array->bytes.end(), std::byte{0xa5});
    }
  }
  std::vector<Array*> all() { return {&k, &v, &k_scale, &v_scale}; }
  bool operator==(Caches& other) {
    for (std::size_t i = 0; i < 4; ++i) {
      if (all()[i]->bytes != other.all()[i]->bytes) return false;
    }
    return true;
  }

  Array k, v, k_scale, v_scale;
};

// One row at a time, as bfloat16, with the plain functions.
void seal_plainly(Caches& to, const Array& rows, bool is_key, std::int64_t block_size,
                  const std::vector<std::int32_t>& blocks) {
  const std::int64_t heads = rows.shape[1], size = rows.shape[2];
  const ArrayView cache = (is_key ? to.k : to.v).view();
  const ArrayView scale = (is_key ? to.k_scale : to.v_scale).view();
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (std::int64_t head = 0; head < heads; ++head) {
      std::vector<BFloat16> open;
      for (std::int64_t row = 0; row < block_size; ++row) {
        const std::int64_t token = static_cast<std::int64_t>(i) * block_size + row;
        for (std::int64_t d = 0; d < size; ++d) {
          open.push_back(from_float<BFloat16>(
              static_cast<float>(rows.get((token * heads + head) * size + d))));
        }
      }
      const RowsToSeal from = {reinterpret_cast<const std::byte*>(open.data()), 2 * size,
                               DType::bfloat16, block_size, size};
      std::byte* const numbers = cache.at(blocks[i], 0, head);
      if (cache.dtype == DType::int4 && is_key) {
        kPlainSealing.keys(from, {numbers, cache.strides[1], scale.at(blocks[i], head), 0});
        continue;
      }
      const SealedRows room = {numbers, cache.strides[1], scale.at(blocks[i], 0, head),
                               scale.strides[1]};
      if (cache.dtype == DType::int4) {
        kPlainSealing.values(from, room);
      } else {
        kPlainSealing.rows(from, cache.dtype, room);
      }
    }
  }
}

class WholeBlocksTest : public OnInstructionSet {};
INSTANTIATE_TEST_SUITE_P(All, WholeBlocksTest, ::testing::ValuesIn(instruction_sets()));

TEST_P(WholeBlocksTest, AsIfTheyHadBeenOpen) {
  std::mt19937 random(1);
  const auto pick = [&](auto... choices) {
    const std::int64_t all[] = {choices...};
    return all[random() % sizeof...(choices)];
  };
  for (int trial = 0; trial < 120; ++trial) {
    const std::int64_t block_size = pick(1, 3, 16, 20), heads = pick(1, 2, 3);
    const std::int64_t dim = pick(2, 30, 64, 66, 128), v_dim = pick(2, 40, 128, 130);
    const DType dtype =
        one_of(random, {DType::int4, DType::int8, DType::float8_e4m3fn, DType::float8_e5m2});
    std::vector<std::int32_t> blocks(kBlocksOfCache);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), random);
    blocks.resize(pick(0, 1, 2, kBlocksOfCache));
    const std::int64_t rows = std::ssize(blocks) * block_size;
    Array k(kDTypes[random() % 3], {rows, heads, dim});
    Array v(kDTypes[random() % 3], {rows, heads, v_dim});
    std::normal_distribution<float> normal(0, static_cast<float>(pick(1, 1000)));
    for (Array* array : {&k, &v}) {
      for (std::int64_t i = 0; i < array->size(); ++i) array->set(i, normal(random));
    }
    Caches expected(dtype, block_size, heads, dim, v_dim), caches = expected;
    seal_plainly(expected, k, true, block_size, blocks);
    seal_plainly(expected, v, false, block_size, blocks);

    // keys with a head's tokens together, [heads, rows, dim], as well
    ArrayView k_view = k.view();
    Array by_head(k.dtype, {heads, rows, dim});
    if (trial % 2 == 1) {
      for (std::int64_t i = 0; i < k.size(); ++i) {
        const std::int64_t row = i / dim / heads, head = i / dim % heads;
        by_head.set((head * rows + row) * dim + i % dim, k.get(i));
      }
      const ArrayView turned = by_head.view();
      k_view = turned;
      std::swap(k_view.shape[0], k_view.shape[1]);
      std::swap(k_view.strides[0], k_view.strides[1]);
    }
    write_whole_blocks({{k_view, caches.k.view(), caches.k_scale.view()},
                        WholeRows{v.view(), caches.v.view(), caches.v_scale.view()},
                        blocks},
                       DType::bfloat16, *selected_kernels().cache, static_cast<int>(pick(1, 2, 5)));
    ASSERT_TRUE(caches == expected) << trial << " " << name_of(dtype);
  }
}

// Enough for several threads.
TEST_P(WholeBlocksTest, ThreadsWriteTheSameBytes) {
  std::vector<std::int32_t> blocks(kBlocksOfCache);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  Array k(DType::float32, {kBlocksOfCache * 64, 4, 128}), v = k;
  for (Array* array : {&k, &v}) {
    for (std::int64_t i = 0; i < array->size(); ++i) array->set(i, normal(random));
  }
  const Caches empty(DType::int4, 64, 4, 128, 128);
  std::optional<Caches> first;
  for (const int num_threads : {1, 2, 5}) {
    Caches caches = empty;
    write_whole_blocks({{k.view(), caches.k.view(), caches.k_scale.view()},
                        WholeRows{v.view(), caches.v.view(), caches.v_scale.view()},
                        blocks},
                       DType::bfloat16, *selected_kernels().cache, num_threads);
    if (!first) first = caches;
    ASSERT_TRUE(caches == *first) << num_threads;
  }
}

}  // namespace
}  // namespace quire::testing
