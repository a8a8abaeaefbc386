// Pools and random rows for tests of what is built on tables.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "quire/base/array_view.h"
#include "quire/paged/append.h"
#include "quire/paged/make_pool.h"

namespace quire::testing {

inline constexpr std::int64_t kKvHeads = 2, kHeads = 4, kHeadDim = 24, kValueDim = 16;

inline KvGeometry small_geometry(DType dtype, std::int64_t num_layers = 2,
                                 std::int64_t num_blocks = 64) {
  return {.num_blocks = num_blocks,
          .block_size = 4,
          .num_kv_heads = kKvHeads,
          .head_dim = kHeadDim,
          .v_head_dim = kValueDim,
          .num_layers = num_layers,
          .dtype = dtype};
}

inline std::vector<float> random_floats(std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> floats(static_cast<std::size_t>(count));
  for (float& x : floats) x = normal(random);
  return floats;
}

// Keys and values of `tokens` tokens in every layer.
struct NewTokens {
  NewTokens(std::int64_t layers, std::int64_t tokens, std::uint32_t seed)
      : num_layers(layers),
        num_tokens(tokens),
        k(random_floats(layers * tokens * kKvHeads * kHeadDim, seed)),
        v(random_floats(layers * tokens * kKvHeads * kValueDim, seed + 1)) {}

  ArrayView k_view() { return view(k, kHeadDim); }
  ArrayView v_view() { return view(v, kValueDim); }
  // One layer's.
  ArrayView k_of(std::int64_t layer) { return layer_of(k, layer, kHeadDim); }
  ArrayView v_of(std::int64_t layer) { return layer_of(v, layer, kValueDim); }

  std::int64_t num_layers, num_tokens;
  std::vector<float> k, v;

 private:
  ArrayView view(std::vector<float>& floats, std::int64_t dim) const {
    if (num_layers == 1) return view_of(floats, {num_tokens, kKvHeads, dim});
    return view_of(floats, {num_layers, num_tokens, kKvHeads, dim});
  }
  ArrayView layer_of(std::vector<float>& floats, std::int64_t layer, std::int64_t dim) const {
    return contiguous_view(floats.data() + layer * num_tokens * kKvHeads * dim, DType::float32,
                           {num_tokens, kKvHeads, dim});
  }
};

inline std::shared_ptr<BlockTable> table_of(const std::shared_ptr<BlockPool>& pool,
                                            std::int64_t tokens, std::uint32_t seed) {
  auto table = std::make_shared<BlockTable>(pool);
  NewTokens rows(pool->geometry().num_layers, tokens, seed);
  append(*table, rows.k_view(), rows.v_view());
  return table;
}

// What a table has, as it reads it.
inline std::vector<float> gathered(const BlockTable& table, std::int64_t layer) {
  const std::int64_t tokens = table.num_tokens();
  const KvGeometry& g = table.pool()->geometry();
  const std::size_t item = is_quantised(g.dtype) ? sizeof(float) : size_of(g.dtype);
  std::vector<float> all(static_cast<std::size_t>(tokens * kKvHeads * (kHeadDim + kValueDim)));
  auto* const bytes = reinterpret_cast<std::byte*>(all.data());
  table.gather(layer, tokens, bytes, bytes + tokens * kKvHeads * kHeadDim * item);
  return all;
}

}  // namespace quire::testing
