// Of BlockTable: its tokens, copied together.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <shared_mutex>
#include <span>
#include <vector>

#include "quire/base/check.h"
#include "quire/base/float_mode.h"
#include "quire/base/interruption.h"
#include "quire/kv/table/block_table.h"

namespace quire {

namespace {

constexpr std::int64_t kTokensPerLook = 64;  // between two looks for an interruption

// Tokens [begin, end) of a layer, and where they are: columns as the table reads them.
struct Tokens {
  std::int64_t layer, begin, end;
  const std::int32_t* ids;
  std::int64_t block_size;

  RowPlace place(std::int64_t token) const { return {ids[token / block_size], token % block_size}; }
};

// One plane of them as it is stored.
void copy_stored(const Tokens tokens, const ArrayView& cache, void* out) {
  const auto row_bytes = static_cast<std::size_t>(cache.shape[3] * cache.strides[3]);
  auto* to = static_cast<std::byte*>(out) + tokens.begin * cache.shape[2] * row_bytes;
  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
    if (token % kTokensPerLook == 0) check_interruption();
    const auto [block, row] = tokens.place(token);
    const std::byte* from = cache.at(block, row);
    for (std::int64_t head = 0; head < cache.shape[2]; ++head, to += row_bytes) {
      std::memcpy(to, from + head * cache.strides[2], row_bytes);
    }
  }
}

// Stored numbers times their scales.
void read_scaled(const Tokens tokens, const ArrayView& cache, const ArrayView& scale, float* to) {
  to += tokens.begin * cache.shape[2] * cache.shape[3];
  visit_cache_dtype(cache.dtype, [&](auto type) {
    using T = decltype(type);
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
      if (token % kTokensPerLook == 0) check_interruption();
      const auto [block, offset] = tokens.place(token);
      for (std::int64_t head = 0; head < cache.shape[2]; ++head) {
        const auto* row = reinterpret_cast<const T*>(cache.at(block, offset, head));
        const float factor = *reinterpret_cast<const float*>(scale.at(block, offset, head));
        to = std::transform(row, row + cache.shape[3], to,
                            [factor](T x) { return to_float(x) * factor; });
      }
    }
  });
}

// As the table reads them, open or sealed.
void read_opened(const BlockPool& pool, const Tokens tokens, float* k, float* v) {
  const KvGeometry& geometry = pool.geometry();
  k += tokens.begin * geometry.num_kv_heads * geometry.head_dim;
  v += tokens.begin * geometry.num_kv_heads * geometry.v_head_dim;
  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
    if (token % kTokensPerLook == 0) check_interruption();
    const RowPlace place = tokens.place(token);
    for (std::int64_t head = 0; head < geometry.num_kv_heads; ++head) {
      pool.open_blocks().read_key(tokens.layer, place, head, k);
      pool.open_blocks().read_value(tokens.layer, place, head, v);
      k += geometry.head_dim;
      v += geometry.v_head_dim;
    }
  }
}

}  // namespace

std::int64_t BlockTable::gather(std::int64_t layer, std::int64_t max_tokens, void* k,
                                void* v) const {
  const KvStorage& storage = pool_->storage();
  if (layer < 0 || layer >= storage.geometry().num_layers) {
    raise<IndexError>("BlockTable.gather: layer", "got ", layer, ", expected 0 to ",
                      storage.geometry().num_layers - 1);
  }
  const BlockPool::Delivery delivery(*pool_);
  const DefaultFloatMode mode;
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.gather");
  storage.memory().require_written("BlockTable.gather");
  const std::int64_t count = std::min(max_tokens, columns_.num_tokens);
  columns_.require_no_hole("BlockTable.gather: table", count);

  std::vector<std::int32_t> ids(columns_.columns_of(std::max<std::int64_t>(0, count)));
  for (std::int64_t column = 0; column < std::ssize(ids); ++column) {
    ids[column] = columns_.read_id(column);
  }
  pool_->read_in_order(layer, ids, [&](std::size_t first, std::size_t last) {
    const std::int64_t size = columns_.block_size, begin = static_cast<std::int64_t>(first) * size;
    const std::int64_t end = std::min(static_cast<std::int64_t>(last) * size, count);
    const Tokens tokens = {layer, begin, end, ids.data(), size};
    if (storage.geometry().opens_blocks()) {
      read_opened(*pool_, tokens, static_cast<float*>(k), static_cast<float*>(v));
    } else if (is_quantised(storage.geometry().dtype)) {
      read_scaled(tokens, storage.k_cache(layer), storage.k_scale(layer), static_cast<float*>(k));
      read_scaled(tokens, storage.v_cache(layer), storage.v_scale(layer), static_cast<float*>(v));
    } else {
      copy_stored(tokens, storage.k_cache(layer), k);
      copy_stored(tokens, storage.v_cache(layer), v);
    }
  });
  confirm_uninterrupted();
  return count;
}

}  // namespace quire
