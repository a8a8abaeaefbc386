// Which memory is asked for before a tile is read: all of its rows, once, and nothing far away.
#include "quire/cpu/attention/tile_extents.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace quire::testing {
namespace {

// As much of a vocabulary as tiles know.
struct Lanes {
  static constexpr int kWidth = 4;
  using Vec = float;
  struct Pair {
    Vec lo, hi;
  };
};

constexpr int kKeys = 64;
constexpr std::int64_t kBlocks = 90, kHeads = 6;
constexpr std::int64_t kAskedBytes = 128 * 1024;

// Caches in one buffer, which nobody reads.
struct Caches {
  std::string name;
  AttentionTask task{};
  std::int64_t bytes = 0;

  const std::byte* origin() const {
    return reinterpret_cast<const std::byte*>(std::intptr_t{4096});
  }
};

// A tile for each block and head: its keys, its values, then its scales or grids.
Caches pool_of(DType dtype, std::int64_t block_size, std::int64_t d, std::int64_t dv) {
  using Rows = AttentionRows<Lanes>;
  Caches caches{"pool of " + std::string(name_of(dtype))};
  const std::int64_t k_row = Rows::row_bytes(dtype, d), v_row = Rows::row_bytes(dtype, dv);
  const bool is_int4 = dtype == DType::int4, scaled = is_quantised(dtype);
  const std::int64_t v_at = block_size * k_row, k_scales_at = v_at + block_size * v_row;
  const std::int64_t v_scales_at = k_scales_at + (scaled ? 4 * (is_int4 ? d : block_size) : 0);
  const std::int64_t end = v_scales_at + (scaled ? 4 * block_size : 0);
  const std::int64_t tile = (end + 63) / 64 * 64, block = kHeads * tile;
  const std::byte* const data = caches.origin();
  ScaleView k_scale{}, v_scale{};
  if (scaled) {
    const ScaleKind kind = is_int4 ? ScaleKind::grids : ScaleKind::rows;
    k_scale = {const_cast<std::byte*>(data + k_scales_at), block, is_int4 ? 0 : 4, tile, kind};
    v_scale = {const_cast<std::byte*>(data + v_scales_at), block, 4, tile, kind};
  }
  caches.task.k = {data, block, k_row, tile, dtype, k_scale};
  caches.task.v = {data + v_at, block, v_row, tile, dtype, v_scale};
  caches.bytes = kBlocks * block;
  return caches;
}

// Of caches whose keys have room for them: values that are the beginnings of their keys, and have
// the same scales.
Caches within_keys(Caches caches) {
  caches.name += ", values within keys";
  caches.task.v = caches.task.k;
  return caches;
}

// Keys, values and scales in arrays of their own; `by_token`: a token's heads lie together.
Caches arrays_of(DType dtype, bool by_token, std::int64_t block_size, std::int64_t d,
                 std::int64_t dv) {
  using Rows = AttentionRows<Lanes>;
  Caches caches{std::string(by_token ? "NHD of " : "HND of ") + std::string(name_of(dtype))};
  const auto array = [&](std::int64_t count) {
    const auto view = [&](std::int64_t row) {
      const std::byte* const data = caches.origin() + caches.bytes;
      caches.bytes += kBlocks * block_size * kHeads * row + 4096;
      CacheView cache{data, block_size * kHeads * row, kHeads * row, row, dtype, {}};
      if (!by_token) cache.token_stride = row, cache.head_stride = block_size * row;
      return cache;
    };
    return view(Rows::row_bytes(dtype, count));
  };
  caches.task.k = array(d);
  caches.task.v = array(dv);
  for (CacheView* cache : {&caches.task.k, &caches.task.v}) {
    if (!is_quantised(dtype)) continue;
    cache->scale = {const_cast<std::byte*>(caches.origin() + caches.bytes), 4 * block_size * kHeads,
                    4 * kHeads, 4, ScaleKind::rows};
    caches.bytes += kBlocks * 4 * block_size * kHeads + 4096;
  }
  return caches;
}

class TileExtentsTest : public ::testing::Test {
 protected:
  // Keys [begin, end) of a table of all blocks in a strange order, and some heads.
  static void expect_all(Caches caches, std::int64_t block_size, std::int64_t d, std::int64_t dv,
                         std::int64_t begin, std::int64_t end, std::int64_t head,
                         std::int64_t heads) {
    SCOPED_TRACE(caches.name + ", blocks of " + std::to_string(block_size) + ", keys " +
                 std::to_string(begin) + " to " + std::to_string(end) + ", heads from " +
                 std::to_string(head) + ": " + std::to_string(heads));
    AttentionTask& task = caches.task;
    task.head_dim = d;
    task.v_head_dim = dv;
    task.block_size = block_size;
    task.first_open = kBlocks;
    std::vector<std::int64_t> table;
    for (std::int64_t i = 0; i < kBlocks; ++i) table.push_back(i * 37 % kBlocks);
    AttentionUnit unit{};
    unit.blocks = {reinterpret_cast<const std::byte*>(table.data()), sizeof table[0]};
    KeyTile<Lanes, kKeys> tile;
    tile.find(task, unit, begin, end);
    ASSERT_LE(heads, TileExtents<Lanes>::heads_at_a_time(task, kKeys, kHeads, kAskedBytes));
    TileExtents<Lanes> extents;
    extents.assign(task, tile, head, heads);

    std::vector<std::pair<std::intptr_t, std::intptr_t>> asked;
    std::int64_t total = 0;
    for (const auto& each : extents) {
      asked.emplace_back(each.begin - caches.origin(), each.end - caches.origin());
      ASSERT_LT(asked.back().first, asked.back().second);
      ASSERT_GE(asked.back().first, 0);
      ASSERT_LE(asked.back().second, caches.bytes);
      total += asked.back().second - asked.back().first;
    }
    std::sort(asked.begin(), asked.end());
    for (std::size_t i = 1; i < asked.size(); ++i) {
      ASSERT_GE(asked[i].first, asked[i - 1].second) << "twice";
    }
    std::int64_t needed = 0;
    const auto expect = [&](const std::byte* first, std::int64_t bytes) {
      needed += bytes;
      const std::intptr_t from = first - caches.origin();
      const auto after = std::upper_bound(asked.begin(), asked.end(), std::pair{from, INTPTR_MAX});
      ASSERT_NE(after, asked.begin());
      ASSERT_GE(std::prev(after)->second, from + bytes);
    };
    using Rows = AttentionRows<Lanes>;
    const std::int64_t last = std::min<std::int64_t>(end, begin + kKeys);
    for (std::int64_t key = begin; key < last; ++key) {
      const std::int64_t block = table[key / block_size], offset = key % block_size;
      for (std::int64_t h = head; h < head + heads; ++h) {
        for (const CacheView* cache : {&task.k, &task.v}) {
          if (cache == &task.v && task.v.data == task.k.data) continue;  // lies in what k is
          const std::int64_t size = cache == &task.k ? d : dv;
          expect(Rows::row_at(*cache, block, offset) + h * cache->head_stride,
                 Rows::row_bytes(cache->dtype, size));
          if (cache->scale.data == nullptr) continue;
          const bool shared = cache->dtype == DType::int4 && cache == &task.k;  // by a block
          if (shared && key != begin && offset != 0) continue;
          expect(Rows::scale_at(cache->scale, block, offset) + h * cache->scale.head_stride,
                 shared ? 4 * d : 4);
        }
      }
    }
    EXPECT_LE(total, needed + needed / 2 + 4096);
  }
};

TEST_F(TileExtentsTest, AllThatIsReadIsAskedForOnce) {
  for (const std::int64_t block_size : {1, 3, 16, 32, 100}) {
    for (const auto& [d, dv] :
         {std::pair<std::int64_t, std::int64_t>{128, 128}, {24, 66}, {64, 16}}) {
      for (const std::int64_t begin : {0, 5, 16, 71}) {
        if (begin >= kBlocks * block_size) continue;
        for (const std::int64_t length : {1, 7, 64, 1000}) {
          const std::int64_t end = std::min(kBlocks * block_size, begin + length);
          for (const auto& [head, heads] :
               {std::pair<std::int64_t, std::int64_t>{0, 1}, {2, 2}, {5, 1}}) {
            for (const DType dtype : {DType::float32, DType::bfloat16, DType::int8,
                                      DType::float8_e4m3fn, DType::float8_e5m2}) {
              const Caches pool = pool_of(dtype, block_size, d, dv);
              expect_all(pool, block_size, d, dv, begin, end, head, heads);
              if (dv <= d) {
                // a pool that shares has no room for values in its tiles
                const std::int64_t none = 0;
                expect_all(within_keys(pool_of(dtype, block_size, d, none)), block_size, d, dv,
                           begin, end, head, heads);
                expect_all(within_keys(arrays_of(dtype, true, block_size, d, dv)), block_size, d,
                           dv, begin, end, head, heads);
                expect_all(within_keys(arrays_of(dtype, false, block_size, d, dv)), block_size, d,
                           dv, begin, end, head, heads);
              }
              for (const bool by_token : {false, true}) {
                expect_all(arrays_of(dtype, by_token, block_size, d, dv), block_size, d, dv, begin,
                           end, head, heads);
              }
            }
            expect_all(pool_of(DType::int4, block_size, d, dv), block_size, d, dv, begin, end, head,
                       heads);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_F(TileExtentsTest, WhatLiesTogetherIsOneExtent) {
  const auto count = [](Caches caches, std::int64_t block_size) {
    AttentionTask& task = caches.task;
    task.head_dim = task.v_head_dim = 128;
    task.block_size = block_size;
    task.first_open = kBlocks;
    const std::int64_t table[] = {4, 8, 2, 0};
    AttentionUnit unit{};
    unit.blocks = {reinterpret_cast<const std::byte*>(table), sizeof table[0]};
    KeyTile<Lanes, kKeys> tile;
    tile.find(task, unit, 0, 4 * block_size);
    TileExtents<Lanes> extents;
    extents.assign(task, tile, 0, kHeads);
    return extents.end() - extents.begin();
  };
  for (const std::int64_t block_size : {8, 16}) {
    for (const DType dtype : {DType::bfloat16, DType::int8, DType::int4}) {
      EXPECT_EQ(count(pool_of(dtype, block_size, 128, 128), block_size), 4) << name_of(dtype);
      if (dtype == DType::int4) continue;
      EXPECT_EQ(count(within_keys(pool_of(dtype, block_size, 128, 0)), block_size), 4);
    }
    for (const bool by_token : {false, true}) {  // keys and values; and scales of both
      const auto plain = arrays_of(DType::bfloat16, by_token, block_size, 128, 128);
      EXPECT_EQ(count(plain, block_size), 2 * 4);
      const auto scaled = arrays_of(DType::int8, by_token, block_size, 128, 128);
      EXPECT_EQ(count(scaled, block_size), 4 * 4);
    }
  }
}

TEST_F(TileExtentsTest, ThereIsRoomForTheMost) {
  Caches caches = arrays_of(DType::int8, false, 2, 2, 2);
  AttentionTask& task = caches.task;
  task.head_dim = task.v_head_dim = 2;
  task.block_size = 2;
  EXPECT_EQ(TileExtents<Lanes>::heads_at_a_time(task, 64, 64, kAskedBytes), 3);
  EXPECT_EQ(TileExtents<Lanes>::heads_at_a_time(task, 128, 64, kAskedBytes), 1);
  task.block_size = 64;
  task.k.token_stride = 100;  // so do tokens that do not follow each other
  EXPECT_EQ(TileExtents<Lanes>::heads_at_a_time(task, 64, 64, kAskedBytes), 2);
}

TEST_F(TileExtentsTest, OpenBlocksAreNotAskedFor) {
  Caches caches = pool_of(DType::int8, 16, 64, 64);
  AttentionTask& task = caches.task;
  task.head_dim = task.v_head_dim = 64;
  task.block_size = 16;
  task.first_open = kBlocks;
  task.k_open = task.v_open = pool_of(DType::bfloat16, 16, 64, 64).task.k;
  const std::int64_t table[] = {4, 8, kBlocks, 3};
  AttentionUnit unit{};
  unit.blocks = {reinterpret_cast<const std::byte*>(table), sizeof table[0]};
  KeyTile<Lanes, kKeys> tile;
  tile.find(task, unit, 0, 64);
  EXPECT_EQ(tile.num_sealed(), 32);
  TileExtents<Lanes> extents;
  extents.assign(task, tile, 0, 1);
  EXPECT_EQ(extents.end() - extents.begin(), 2);
  extents.clear();
  EXPECT_EQ(extents.end(), extents.begin());
}

}  // namespace
}  // namespace quire::testing
