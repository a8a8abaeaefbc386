// write_kv on threads: what a plain loop over the rows writes, bit for bit, whatever the number of
// threads, the shapes and the strides.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "quire/cpu/operations.h"
#include "support/attention_problem.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

struct Case {
  std::int64_t rows, num_blocks, block_size, heads, head_dim, v_head_dim;
  DType from, to;
  Layout layout;
  std::int64_t gap;  // see Strided
};

// An array with `gap` unused elements before each row of the last axis, and after the last one.
struct Strided {
  Strided(DType dtype, std::vector<std::int64_t> lengths, std::int64_t gap)
      : memory(dtype, padded(lengths, gap)), shape(lengths), skipped(gap) {}

  static std::vector<std::int64_t> padded(std::vector<std::int64_t> lengths, std::int64_t gap) {
    std::int64_t rows = 1;
    for (std::size_t axis = 0; axis + 1 < lengths.size(); ++axis) rows *= lengths[axis];
    return {rows * (lengths.back() + gap) + gap};
  }

  ArrayView view() {
    ArrayView result;
    const auto item = static_cast<std::int64_t>(size_of(memory.dtype));
    result.data = memory.bytes.data() + skipped * item;
    result.dtype = memory.dtype;
    result.ndim = static_cast<int>(shape.size());
    std::int64_t stride = item;
    for (int axis = result.ndim - 1; axis >= 0; --axis) {
      result.shape[axis] = shape[axis];
      result.strides[axis] = stride;
      stride *= shape[axis];
      if (axis == result.ndim - 1) stride += skipped * item;
    }
    return result;
  }

  Array memory;
  std::vector<std::int64_t> shape;
  std::int64_t skipped;
};

void fill(Array& array, std::mt19937& random) {
  std::uniform_real_distribution<float> values(-4.0f, 4.0f);
  for (std::int64_t i = 0; i < array.size(); ++i) array.set(i, values(random));
}

// Row by row, element by element, in order.
void plain_write(const ArrayView& rows, const ArrayView& cache, Layout layout,
                 const std::vector<std::int64_t>& slots) {
  const bool nhd = layout == Layout::NHD;
  const std::int64_t block_size = cache.shape[nhd ? 1 : 2];
  for (std::int64_t i = 0; i < rows.shape[0]; ++i) {
    if (slots[i] < 0) continue;
    const std::int64_t block = slots[i] / block_size;
    const std::int64_t offset = slots[i] % block_size;
    for (std::int64_t h = 0; h < rows.shape[1]; ++h) {
      for (std::int64_t d = 0; d < rows.shape[2]; ++d) {
        std::byte* to = nhd ? cache.at(block, offset, h, d) : cache.at(block, h, offset, d);
        const float value = visit_dtype(rows.dtype, [&](auto type) {
          return to_float(*reinterpret_cast<const decltype(type)*>(rows.at(i, h, d)));
        });
        visit_dtype(cache.dtype, [&](auto type) {
          const auto rounded = from_float<decltype(type)>(value);
          std::memcpy(to, &rounded, sizeof rounded);
        });
      }
    }
  }
}

// Runs of neighbouring slots, single ones, repeated ones, and skipped rows.
std::vector<std::int64_t> random_slots(const Case& c, std::mt19937& random) {
  const std::int64_t num_slots = c.num_blocks * c.block_size;
  std::vector<std::int64_t> slots;
  while (static_cast<std::int64_t>(slots.size()) < c.rows) {
    const std::int64_t first = static_cast<std::int64_t>(random()) % num_slots;
    const std::int64_t count = random() % 2 == 0 ? 1 : 1 + random() % (2 * c.block_size);
    if (random() % 8 == 0) slots.push_back(-1);
    for (std::int64_t i = 0; i < count; ++i) slots.push_back((first + i) % num_slots);
  }
  slots.resize(static_cast<std::size_t>(c.rows));
  return slots;
}

void expect_as_plain(const Case& c, unsigned seed) {
  std::mt19937 random(seed);
  const auto cache_shape = [&](std::int64_t dim) {
    return c.layout == Layout::NHD
               ? std::vector<std::int64_t>{c.num_blocks, c.block_size, c.heads, dim}
               : std::vector<std::int64_t>{c.num_blocks, c.heads, c.block_size, dim};
  };
  Strided k(c.from, {c.rows, c.heads, c.head_dim}, c.gap);
  Strided v(c.from, {c.rows, c.heads, c.v_head_dim}, c.gap);
  Strided k_cache(c.to, cache_shape(c.head_dim), c.gap);
  Strided v_cache(c.to, cache_shape(c.v_head_dim), c.gap);
  for (Strided* array : {&k, &v, &k_cache, &v_cache}) fill(array->memory, random);
  const std::vector<std::int64_t> slots = random_slots(c, random);
  Strided k_expected = k_cache, v_expected = v_cache;
  plain_write(k.view(), k_expected.view(), c.layout, slots);
  plain_write(v.view(), v_expected.view(), c.layout, slots);
  for (const int num_threads : {1, 2, 5}) {
    Strided k_got = k_cache, v_got = v_cache;
    write_kv({k.view(), v.view(), k_got.view(), v_got.view(),
              contiguous_index_view(slots.data(), {c.rows}), c.layout},
             num_threads);
    ASSERT_TRUE(k_got.memory.bytes == k_expected.memory.bytes) << num_threads << " threads";
    ASSERT_TRUE(v_got.memory.bytes == v_expected.memory.bytes) << num_threads << " threads";
  }
}

// Of 1 MiB and more each, so that they are streamed, by several threads.
TEST(WriteKvConcurrency, LargeWritesAreThoseOfAPlainLoop) {
  const DType f32 = DType::float32, f16 = DType::float16, bf16 = DType::bfloat16;
  const Layout nhd = Layout::NHD, hnd = Layout::HND;
  const Case cases[] = {
      {300, 30, 16, 8, 128, 128, bf16, bf16, nhd, 0}, {300, 30, 16, 8, 128, 128, f32, bf16, hnd, 0},
      {300, 30, 16, 8, 128, 128, f32, bf16, nhd, 0},  {300, 30, 16, 8, 128, 128, f16, f16, hnd, 0},
      {600, 20, 24, 7, 97, 61, f32, f16, hnd, 0},     {600, 20, 24, 7, 97, 61, f16, f16, hnd, 1},
      {300, 20, 24, 7, 97, 61, bf16, f32, nhd, 0},    {600, 20, 24, 7, 97, 61, f16, bf16, nhd, 3},
      {4500, 9, 700, 1, 80, 48, f32, bf16, nhd, 0},   {4500, 9, 700, 1, 80, 48, bf16, bf16, hnd, 0},
      {250, 400, 1, 2, 576, 512, f32, bf16, nhd, 0},  {250, 400, 1, 2, 576, 512, f16, f16, nhd, 8},
  };
  for (std::size_t i = 0; i < std::size(cases); ++i) {
    SCOPED_TRACE(i);
    expect_as_plain(cases[i], static_cast<unsigned>(i));
  }
}

// Nearly every slot is written many times over: the last row wins.
TEST(WriteKvConcurrency, ManyRowsForFewSlots) {
  for (const Layout layout : {Layout::NHD, Layout::HND}) {
    for (const DType to : kDTypes) {
      expect_as_plain({4000, 3, 16, 2, 64, 64, DType::float32, to, layout, 0}, 1);
      expect_as_plain({4000, 1, 130, 2, 64, 64, DType::float32, to, layout, 0}, 2);
    }
  }
}

TEST(WriteKvConcurrency, SmallWritesAreThoseOfAPlainLoop) {
  for (unsigned seed = 0; seed < num_cases(60); ++seed) {
    std::mt19937 random(seed);
    const auto from_to = [&](std::int64_t least, std::int64_t most) {
      return least + static_cast<std::int64_t>(random()) % (most - least + 1);
    };
    SCOPED_TRACE(seed);
    expect_as_plain({from_to(0, 40), from_to(1, 5), from_to(1, 20), from_to(1, 4), from_to(1, 40),
                     from_to(1, 40), kDTypes[random() % 3], kDTypes[random() % 3],
                     random() % 2 == 0 ? Layout::NHD : Layout::HND, from_to(0, 2)},
                    seed);
  }
}

// Callers at once, each with its own blocks of one cache.
TEST(WriteKvConcurrency, CallersAtOnceWriteTheirOwnBlocks) {
  constexpr std::int64_t kCallers = 4, kBlocks = 40, kBlockSize = 16, kHeads = 8, kDim = 64;
  constexpr std::int64_t kRows = kBlocks * kBlockSize;
  Array k_cache(DType::bfloat16, {kCallers * kBlocks, kBlockSize, kHeads, kDim});
  Array v_cache = k_cache;
  std::vector<std::thread> callers;
  for (std::int64_t caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      Array rows(DType::float32, {kRows, kHeads, kDim});
      for (std::int64_t i = 0; i < rows.size(); ++i) rows.set(i, static_cast<float>(caller + 1));
      Array v = rows;
      std::vector<std::int64_t> slots(kRows);
      for (std::int64_t i = 0; i < kRows; ++i) {  // every fourth block is this caller's
        slots[i] = (i / kBlockSize * kCallers + caller) * kBlockSize + i % kBlockSize;
      }
      for (int round = 0; round < 5; ++round) {
        write_kv({rows.view(), v.view(), k_cache.view(), v_cache.view(),
                  contiguous_index_view(slots.data(), {kRows}), Layout::NHD},
                 2);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  constexpr std::int64_t kBlockElements = kBlockSize * kHeads * kDim;
  for (std::int64_t i = 0; i < k_cache.size(); ++i) {
    ASSERT_EQ(k_cache.get(i), i / kBlockElements % kCallers + 1) << i;
    ASSERT_EQ(v_cache.get(i), i / kBlockElements % kCallers + 1) << i;
  }
}

}  // namespace
}  // namespace quire::testing
