// The memory of a pool: where every element lies, and which sizes are refused.
#include "quire/kv/residency/kv_storage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <string_view>
#include <vector>

#include "kv/table/token_rows.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

const KvGeometry kSmall{.num_blocks = 3,
                        .block_size = 5,
                        .num_kv_heads = 2,
                        .head_dim = 7,
                        .v_head_dim = 4,
                        .num_layers = 2,
                        .dtype = DType::bfloat16};

std::vector<KvGeometry> geometries() {
  std::vector<KvGeometry> all;
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16, DType::int8,
                            DType::float8_e4m3fn, DType::float8_e5m2}) {
    KvGeometry geometry = kSmall;
    geometry.dtype = dtype;
    all.push_back(geometry);
    all.push_back({.num_blocks = 2,
                   .block_size = 16,
                   .num_kv_heads = 3,
                   .head_dim = 64,
                   .v_head_dim = 64,
                   .num_layers = 1,
                   .dtype = dtype});
    all.push_back({.num_blocks = 1,
                   .block_size = 1,
                   .num_kv_heads = 1,
                   .head_dim = 1,
                   .v_head_dim = 1,
                   .num_layers = 3,
                   .dtype = dtype});
  }
  return all;
}

template <class Visit>
void for_each_element(const ArrayView& cache, Visit visit) {
  for (std::int64_t b = 0; b < cache.shape[0]; ++b) {
    for (std::int64_t row = 0; row < cache.shape[1]; ++row) {
      for (std::int64_t head = 0; head < cache.shape[2]; ++head) {
        for (std::int64_t d = 0; d < cache.shape[3]; ++d) visit(cache.at(b, row, head, d));
      }
    }
  }
}

TEST(KvStorage, ViewsHaveTheNaturalShape) {
  for (const KvGeometry& g : geometries()) {
    const KvStorage storage(g);
    const ArrayView k = storage.k_cache(g.num_layers - 1);
    const ArrayView v = storage.v_cache(g.num_layers - 1);
    EXPECT_EQ(shape_text(k), concat("[", g.num_blocks, ", ", g.block_size, ", ", g.num_kv_heads,
                                    ", ", g.head_dim, "]"));
    EXPECT_EQ(shape_text(v), concat("[", g.num_blocks, ", ", g.block_size, ", ", g.num_kv_heads,
                                    ", ", g.v_head_dim, "]"));
    EXPECT_TRUE(k.writable && v.writable);
    EXPECT_EQ(k.dtype, g.dtype);
    EXPECT_EQ(v.dtype, g.dtype);
  }
}

TEST(KvStorage, PlanesAreTheCaches) {
  for (const KvGeometry& g : geometries()) {
    const KvStorage storage(g);
    for (std::int64_t layer = 0; layer < g.num_layers; ++layer) {
      std::vector<std::string_view> names;
      for (const auto& [name, plane] : storage.planes(layer)) {
        names.push_back(name);
        if (name != "k" && name != "v") continue;
        const ArrayView cache = name == "k" ? storage.k_cache(layer) : storage.v_cache(layer);
        EXPECT_EQ(plane.data, cache.data);
        EXPECT_EQ(plane.shape, cache.shape);
        EXPECT_EQ(plane.strides, cache.strides);
      }
      std::vector<std::string_view> expected = {"k", "v"};
      if (is_quantised(g.dtype)) expected.insert(expected.end(), {"k_scale", "v_scale"});
      EXPECT_EQ(names, expected);
    }
    EXPECT_THROW(storage.planes(g.num_layers), IndexError);
  }
}

// The scales of a layer; none where the pool has none.
std::vector<ArrayView> scales_of(const KvStorage& storage, std::int64_t layer) {
  if (!is_quantised(storage.geometry().dtype)) return {};
  return {storage.k_scale(layer), storage.v_scale(layer)};
}

TEST(KvStorage, EveryElementHasItsOwnPlace) {
  for (const KvGeometry& g : geometries()) {
    const KvStorage storage(g);
    std::set<std::byte*> places;
    std::size_t count = 0;
    for (std::int64_t layer = 0; layer < g.num_layers; ++layer) {
      for (const ArrayView& cache : {storage.k_cache(layer), storage.v_cache(layer)}) {
        for_each_element(cache, [&](std::byte* place) {
          places.insert(place);
          ++count;
        });
      }
    }
    ASSERT_EQ(places.size(), count);
    std::byte* previous = nullptr;
    const auto item = static_cast<std::ptrdiff_t>(size_of(g.dtype));
    for (std::byte* place : places) {
      ASSERT_TRUE(previous == nullptr || place - previous >= item);
      previous = place;
    }
    for (std::int64_t layer = 0; layer < g.num_layers; ++layer) {
      for (const ArrayView& scale : scales_of(storage, layer)) {
        EXPECT_EQ(shape_text(scale),
                  concat("[", g.num_blocks, ", ", g.block_size, ", ", g.num_kv_heads, "]"));
        EXPECT_TRUE(scale.writable && scale.dtype == DType::float32);
        for (std::int64_t b = 0; b < g.num_blocks; ++b) {
          for (std::int64_t row = 0; row < g.block_size; ++row) {
            for (std::int64_t head = 0; head < g.num_kv_heads; ++head) {
              std::byte* const place = scale.at(b, row, head);
              ASSERT_EQ(reinterpret_cast<std::uintptr_t>(place) % sizeof(float), 0u);
              for (std::size_t byte = 0; byte < sizeof(float); ++byte) {
                ASSERT_TRUE(places.insert(place + byte).second);
              }
            }
          }
        }
      }
    }
    EXPECT_EQ(*places.begin(), storage.k_cache(0).data);
    EXPECT_LE(*places.rbegin() + item, storage.k_cache(0).data + storage.nbytes());
  }
}

TEST(KvStorage, TileOfOneHeadIsOneAlignedStretch) {
  for (const KvGeometry& g : geometries()) {
    const KvStorage storage(g);
    const auto item = static_cast<std::int64_t>(size_of(g.dtype));
    const std::int64_t k_bytes = g.block_size * g.head_dim * item;
    const std::int64_t v_bytes = g.block_size * g.v_head_dim * item;
    const std::int64_t scale_bytes = is_quantised(g.dtype) ? 2 * g.block_size * 4 : 0;
    const std::int64_t scale_begin = scale_bytes > 0 ? (k_bytes + v_bytes + 3) / 4 * 4 : 0;
    const std::int64_t tile_bytes =
        (std::max(scale_begin + scale_bytes, k_bytes + v_bytes) + 63) / 64 * 64;
    EXPECT_EQ(storage.nbytes(), g.num_layers * g.num_blocks * g.num_kv_heads * tile_bytes);
    std::byte* tile = storage.k_cache(0).data;
    for (std::int64_t layer = 0; layer < g.num_layers; ++layer) {
      const ArrayView k = storage.k_cache(layer);
      const ArrayView v = storage.v_cache(layer);
      for (std::int64_t b = 0; b < g.num_blocks; ++b) {
        for (std::int64_t head = 0; head < g.num_kv_heads; ++head, tile += tile_bytes) {
          EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tile) % 64, 0u);
          EXPECT_EQ(k.at(b, 0, head), tile);
          EXPECT_EQ(v.at(b, 0, head), tile + k_bytes);
          EXPECT_EQ(k.at(b, g.block_size - 1, head, g.head_dim - 1), tile + k_bytes - item);
          EXPECT_EQ(v.at(b, g.block_size - 1, head, g.v_head_dim - 1),
                    tile + k_bytes + v_bytes - item);
          if (scale_bytes == 0) continue;
          EXPECT_EQ(storage.k_scale(layer).at(b, 0, head), tile + scale_begin);
          EXPECT_EQ(storage.v_scale(layer).at(b, 0, head), tile + scale_begin + scale_bytes / 2);
        }
      }
    }
  }
}

TEST(KvStorage, StartsZeroAndIsWritableToTheLastByte) {
  KvGeometry geometry = kSmall;
  geometry.num_blocks = 100'000;
  const KvStorage storage(geometry);
  std::byte* memory = storage.k_cache(0).data;
  for (std::int64_t at = 0; at < storage.nbytes(); at += storage.nbytes() / 50) {
    EXPECT_EQ(memory[at], std::byte{0});
  }
  memory[storage.nbytes() - 1] = std::byte{7};
  EXPECT_EQ(memory[storage.nbytes() - 1], std::byte{7});
}

TEST(KvStorage, CopyBlockCopiesEveryLayerAndNothingElse) {
  for (const KvGeometry& g : geometries()) {
    if (g.num_blocks < 2) continue;
    const KvStorage storage(g);
    std::byte* memory = storage.k_cache(0).data;
    const auto nbytes = static_cast<std::size_t>(storage.nbytes());
    for (std::size_t i = 0; i < nbytes; ++i) memory[i] = std::byte(i * 7 + i / 251);
    std::vector<std::byte> expected(memory, memory + nbytes);
    const std::size_t layer = nbytes / g.num_layers;
    const std::size_t block = layer / g.num_blocks;
    for (std::int64_t l = 0; l < g.num_layers; ++l) {
      std::copy_n(expected.begin() + l * layer + block, block, expected.begin() + l * layer);
    }
    storage.copy_block(1, 0);
    EXPECT_EQ(std::memcmp(memory, expected.data(), nbytes), 0);
  }
}

TEST(KvStorage, CopyRowsCopiesTheFirstRowsWithTheirScalesAndNothingElse) {
  for (const KvGeometry& g : geometries()) {
    if (g.num_blocks < 2) continue;
    for (const std::int64_t rows : {std::int64_t{0}, std::int64_t{2}, g.block_size}) {
      const KvStorage storage(g), expected(g);
      std::byte* memory = storage.k_cache(0).data;
      const auto nbytes = static_cast<std::size_t>(storage.nbytes());
      for (std::size_t i = 0; i < nbytes; ++i) memory[i] = std::byte(i * 7 + i / 251);
      std::memcpy(expected.k_cache(0).data, memory, nbytes);
      for (std::int64_t layer = 0; layer < g.num_layers; ++layer) {
        std::vector<ArrayView> views = scales_of(expected, layer);
        views.push_back(expected.k_cache(layer));
        views.push_back(expected.v_cache(layer));
        for (const ArrayView& view : views) {
          const std::int64_t last = view.ndim == 4 ? view.shape[3] : 1;
          for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t head = 0; head < g.num_kv_heads; ++head) {
              std::memcpy(view.at(0, row, head), view.at(1, row, head),
                          static_cast<std::size_t>(last) * size_of(view.dtype));
            }
          }
        }
      }
      storage.copy_rows({1, 0}, {0, 0}, rows);
      EXPECT_EQ(std::memcmp(memory, expected.k_cache(0).data, nbytes), 0) << rows;
    }
  }
}

TEST(KvStorage, OnlyQuantisedPoolsHaveScales) {
  const KvStorage plain(kSmall);
  EXPECT_EQ(message_of<TypeError>([&] { plain.k_scale(0); }),
            "BlockPool.k_scale: pool: got a pool of bfloat16, expected one of int8, "
            "float8_e4m3fn, float8_e5m2 or int4");
  EXPECT_THROW(plain.v_scale(0), TypeError);
  KvGeometry geometry = kSmall;
  geometry.dtype = DType::int8;
  const KvStorage quantised(geometry);
  EXPECT_EQ(message_of<IndexError>([&] { quantised.v_scale(2); }),
            "BlockPool.v_scale: layer: got 2, expected 0 to 1");
}

TEST(KvStorage, UnknownLayerThrows) {
  const KvStorage storage(kSmall);
  for (const std::int64_t layer : {std::int64_t{-1}, std::int64_t{2}, kMax}) {
    EXPECT_EQ(message_of<IndexError>([&] { storage.k_cache(layer); }),
              concat("BlockPool.k_cache: layer: got ", layer, ", expected 0 to 1"));
    EXPECT_EQ(message_of<IndexError>([&] { storage.v_cache(layer); }),
              concat("BlockPool.v_cache: layer: got ", layer, ", expected 0 to 1"));
  }
}

TEST(KvStorage, SizesBelowOneThrow) {
  const std::pair<const char*, std::int64_t KvGeometry::*> sizes[] = {
      {"num_blocks", &KvGeometry::num_blocks},     {"block_size", &KvGeometry::block_size},
      {"num_kv_heads", &KvGeometry::num_kv_heads}, {"head_dim", &KvGeometry::head_dim},
      {"v_head_dim", &KvGeometry::v_head_dim},     {"num_layers", &KvGeometry::num_layers}};
  for (const auto& [name, size] : sizes) {
    for (const std::int64_t value : {std::int64_t{0}, std::int64_t{-1}, -kMax}) {
      KvGeometry geometry = kSmall;
      geometry.*size = value;
      EXPECT_EQ(message_of<ValueError>([&] { KvStorage storage(geometry); }),
                concat("BlockPool: ", name, ": got ", value, ", expected >= 1"));
    }
  }
}

TEST(KvStorage, MoreBlocksThanIdsThrows) {
  KvGeometry geometry = kSmall;
  geometry.num_blocks = std::int64_t{1} << 31;
  EXPECT_EQ(message_of<ValueError>([&] { KvStorage storage(geometry); }),
            "BlockPool: num_blocks: got 2147483648, expected 1 to 2147483647");
}

TEST(KvStorage, SizesThatOverflowThrow) {
  for (const auto size : {&KvGeometry::num_kv_heads, &KvGeometry::head_dim, &KvGeometry::v_head_dim,
                          &KvGeometry::num_layers}) {
    for (const std::int64_t value : {kMax, kMax / 2 + 1, kMax / 16}) {
      KvGeometry geometry = kSmall;
      geometry.*size = value;
      EXPECT_EQ(message_of<ValueError>([&] { KvStorage storage(geometry); }),
                "BlockPool: num_blocks: got 3 blocks of more bytes than an address can count, "
                "expected fewer or smaller");
    }
  }
}

TEST(KvStorage, MoreThanTheMachineHasThrows) {
  KvGeometry geometry = kSmall;
  geometry.num_blocks = 2'147'483'647;
  geometry.head_dim = 60;
  geometry.num_layers = 1'000'000;  // some 2.7e18 bytes
  EXPECT_EQ(message_of<OutOfMemory>([&] { KvStorage storage(geometry); }),
            "BlockPool: num_blocks: got 2147483647 (2748779068160000000 bytes), expected a pool "
            "that fits in this machine's memory");
}

}  // namespace
}  // namespace quire::testing
