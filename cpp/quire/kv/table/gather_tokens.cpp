// Of BlockTable: its tokens, copied together.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <shared_mutex>
#include <span>

#include "quire/base/check.h"
#include "quire/base/float_mode.h"
#include "quire/base/interruption.h"
#include "quire/kv/table/block_table.h"

namespace quire {

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
  const std::int64_t count = std::min(max_tokens, num_tokens_);
  require_no_hole("BlockTable.gather: table", count);
  if (pool_->open_blocks() != nullptr) {
    gather_opened(layer, count, static_cast<float*>(k), static_cast<float*>(v));
    confirm_uninterrupted();
    return count;
  }
  const auto copy = [&](const ArrayView& cache, void* out, std::int64_t begin, std::int64_t end) {
    const auto row_bytes = static_cast<std::size_t>(cache.shape[3] * cache.strides[3]);
    auto* to = static_cast<std::byte*>(out) + begin * cache.shape[2] * row_bytes;
    for (std::int64_t token = begin; token < end; ++token) {
      if (token % kTokensPerLook == 0) check_interruption();
      const std::byte* from = cache.at(blocks_[token / block_size_], token % block_size_);
      for (std::int64_t head = 0; head < cache.shape[2]; ++head, to += row_bytes) {
        std::memcpy(to, from + head * cache.strides[2], row_bytes);
      }
    }
  };
  const auto blocks = std::span(blocks_).first((count + block_size_ - 1) / block_size_);
  pool_->read_in_order(layer, blocks, [&](std::size_t first, std::size_t last) {
    const std::int64_t begin = static_cast<std::int64_t>(first) * block_size_;
    const std::int64_t end = std::min(static_cast<std::int64_t>(last) * block_size_, count);
    if (is_quantised(storage.geometry().dtype)) {
      gather_real(storage.k_cache(layer), storage.k_scale(layer), begin, end,
                  static_cast<float*>(k));
      gather_real(storage.v_cache(layer), storage.v_scale(layer), begin, end,
                  static_cast<float*>(v));
      return;
    }
    copy(storage.k_cache(layer), k, begin, end);
    copy(storage.v_cache(layer), v, begin, end);
  });
  confirm_uninterrupted();
  return count;
}

// Stored numbers times their scales, of tokens [begin, end).
void BlockTable::gather_real(const ArrayView& cache, const ArrayView& scale, std::int64_t begin,
                             std::int64_t end, float* to) const {
  to += begin * cache.shape[2] * cache.shape[3];
  visit_cache_dtype(cache.dtype, [&](auto type) {
    using T = decltype(type);
    for (std::int64_t token = begin; token < end; ++token) {
      if (token % kTokensPerLook == 0) check_interruption();
      const std::int32_t block = blocks_[token / block_size_];
      const std::int64_t offset = token % block_size_;
      for (std::int64_t head = 0; head < cache.shape[2]; ++head) {
        const auto* row = reinterpret_cast<const T*>(cache.at(block, offset, head));
        const float factor = *reinterpret_cast<const float*>(scale.at(block, offset, head));
        to = std::transform(row, row + cache.shape[3], to,
                            [factor](T x) { return to_float(x) * factor; });
      }
    }
  });
}

}  // namespace quire
