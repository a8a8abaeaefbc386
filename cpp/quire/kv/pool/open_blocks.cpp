#include "quire/kv/pool/open_blocks.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <functional>
#include <limits>
#include <new>

#include "quire/base/float_mode.h"
#include "quire/base/thread_pool.h"
#include "quire/format/row_scale.h"

namespace quire {
namespace {

constexpr std::int64_t kItem = sizeof(BFloat16);

// Numbers sealed that pay for one more thread.
constexpr std::int64_t kNumbersPerThread = 64 * 1024;

// Numbers of a sealed row, rounded; open(at, n, to) gives n of them from `at` on. Without the heap.
template <class Open>
void round_numbers(std::int64_t size, BFloat16* out, Open open) {
  constexpr std::int64_t kMost = 64;  // at a time, an even number
  float numbers[kMost];
  for (std::int64_t at = 0; at < size; at += kMost) {
    const std::int64_t n = std::min(kMost, size - at);
    open(at, n, numbers);
    std::transform(numbers, numbers + n, out + at, from_float<BFloat16>);
  }
}

const BFloat16* row_at(const ArrayView& open, std::int64_t slot, std::int64_t row,
                       std::int64_t head) {
  return reinterpret_cast<const BFloat16*>(open.at(slot, row, head));
}

}  // namespace

OpenBlocks::OpenBlocks(const KvStorage& storage) : storage_(storage) {
  if (!geometry().opens_blocks()) return;
  assert(is_quantised(geometry().dtype));
  const KvGeometry& g = geometry();
  // A tile has these numbers, so their count overflows nothing.
  constexpr std::int64_t alignment = KvStorage::kTileAlignment;
  const std::int64_t numbers = g.block_size * (g.head_dim + g.own_v_head_dim());
  tile_bytes_ = (numbers * kItem + alignment - 1) / alignment * alignment;
  std::int64_t bytes = 0;
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 4;
  bool overflows =
      numbers > most || __builtin_mul_overflow(tile_bytes_, g.num_kv_heads, &layer_bytes_) ||
      __builtin_mul_overflow(layer_bytes_, g.num_layers, &slot_bytes_) || slot_bytes_ > most;
  const bool is_in_pages = storage.memory().is_file();
  if (is_in_pages && !overflows) {
    const std::int64_t page = BlockMemory::page_bytes();
    slot_bytes_ = (slot_bytes_ + page - 1) / page * page;
  }
  overflows = overflows || __builtin_mul_overflow(slot_bytes_, g.num_blocks, &bytes) ||
              bytes > std::numeric_limits<std::int64_t>::max() / 2;
  if (overflows) {
    raise<ValueError>("BlockPool: num_blocks", "got ", counted(g.num_blocks, "block"),
                      " of more bytes than an address can count, expected fewer or smaller");
  }
  memory_ = std::make_unique<BlockMemory>(
      bytes, g.num_blocks, is_in_pages ? BlockMemory::Claim::pages : BlockMemory::Claim::addresses);
}

void OpenBlocks::clear(std::int32_t slot) noexcept {
  memory_->clear({slot * slot_bytes_, (slot + 1) * slot_bytes_});
}

ArrayView OpenBlocks::view(std::string_view function, std::int64_t layer, std::int64_t offset,
                           std::int64_t row_size) const {
  const KvGeometry& g = geometry();
  if (!g.opens_blocks()) {
    raise<TypeError>(place(function, "pool"), "got a pool of ", name_of(g.dtype),
                     " without open blocks, expected one of int4, or with open_blocks");
  }
  if (layer < 0 || layer >= g.num_layers) {
    raise<IndexError>(place(function, "layer"), "got ", layer, ", expected 0 to ",
                      g.num_layers - 1);
  }
  ArrayView open;
  open.data = memory_->data() + layer * layer_bytes_ + offset;
  open.dtype = DType::bfloat16;
  open.ndim = 4;
  open.shape = {g.num_blocks, g.block_size, g.num_kv_heads, row_size};
  open.strides = {slot_bytes_, row_size * kItem, tile_bytes_, kItem};
  return open;
}

ArrayView OpenBlocks::k_open(std::int64_t layer) const {
  return view("BlockPool.k_open", layer, 0, geometry().head_dim);
}

ArrayView OpenBlocks::v_open(std::int64_t layer) const {
  const KvGeometry& g = geometry();
  if (!g.shared) {
    return view("BlockPool.v_open", layer, g.block_size * g.head_dim * kItem, g.v_head_dim);
  }
  ArrayView values = view("BlockPool.v_open", layer, 0, g.head_dim);
  values.shape[3] = g.v_head_dim;
  return values;
}

KvPlanes OpenBlocks::planes(std::int64_t layer) const {
  KvPlanes planes;
  if (!geometry().opens_blocks()) return planes;
  planes.add("k_open", k_open(layer));
  if (!geometry().shared) planes.add("v_open", v_open(layer));
  return planes;
}

void OpenBlocks::copy_rows(RowPlace from, RowPlace to, std::int64_t rows) const {
  for (std::int64_t layer = 0; layer < geometry().num_layers; ++layer) {
    copy_rows(layer, from, to, rows);
  }
}

void OpenBlocks::copy_rows(std::int64_t layer, RowPlace from, RowPlace to,
                           std::int64_t rows) const {
  assert(is_open(to.block));
  const std::int64_t num_blocks = geometry().num_blocks;
  if (is_open(from.block)) {
    for (const auto& [name, open] : planes(layer)) {
      for (std::int64_t head = 0; head < geometry().num_kv_heads;
           ++head) {  // its rows lie together
        std::memcpy(open.at(to.block - num_blocks, to.row, head),
                    open.at(from.block - num_blocks, from.row, head),
                    static_cast<std::size_t>(rows * open.strides[1]));
      }
    }
    return;
  }
  const ArrayView keys = k_open(layer), values = v_open(layer);
  const SealedLayer sealed_rows = sealed(layer);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t head = 0; head < geometry().num_kv_heads; ++head) {
      const RowPlace place = {from.block, from.row + row};
      const auto row_of = [&](const ArrayView& open) {
        return reinterpret_cast<BFloat16*>(open.at(to.block - num_blocks, to.row + row, head));
      };
      const SealedRow key = sealed_key(sealed_rows, place, head);
      round_numbers(
          geometry().head_dim, row_of(keys),
          [&](std::int64_t at, std::int64_t n, float* out) { read_sealed(key, true, at, n, out); });
      if (geometry().shared) continue;
      const SealedRow value = sealed_value(sealed_rows, place, head);
      round_numbers(geometry().v_head_dim, row_of(values),
                    [&](std::int64_t at, std::int64_t n, float* out) {
                      read_sealed(value, false, at, n, out);
                    });
    }
  }
}

OpenBlocks::SealedLayer OpenBlocks::sealed(std::int64_t layer) const {
  return {storage_.k_cache(layer), storage_.v_cache(layer), storage_.k_scale(layer),
          storage_.v_scale(layer)};
}

OpenBlocks::SealedRow OpenBlocks::sealed_key(const SealedLayer& layer, RowPlace from,
                                             std::int64_t head) const {
  return {layer.k.at(from.block, from.row, head),
          has_grids() ? layer.k_scale.at(from.block, head)
                      : layer.k_scale.at(from.block, from.row, head)};
}

OpenBlocks::SealedRow OpenBlocks::sealed_value(const SealedLayer& layer, RowPlace from,
                                               std::int64_t head) {
  return {layer.v.at(from.block, from.row, head), layer.v_scale.at(from.block, from.row, head)};
}

void OpenBlocks::read_sealed(SealedRow row, bool is_key, std::int64_t at, std::int64_t count,
                             float* out) const {
  const DefaultFloatMode mode;
  if (!has_grids()) {
    open_row(row.numbers + at, geometry().dtype, *reinterpret_cast<const float*>(row.scale), count,
             out);
  } else if (is_key) {
    open_key(row.numbers + at / 2, row.grids() + at, count, out);
  } else {
    open_value(row.numbers + at / 2, *row.grids(), count, out);
  }
}

void OpenBlocks::read_key(std::int64_t layer, RowPlace from, std::int64_t head, float* key) const {
  if (is_open(from.block)) {
    const BFloat16* row = row_at(k_open(layer), from.block - geometry().num_blocks, from.row, head);
    std::transform(row, row + geometry().head_dim, key, [](BFloat16 x) { return to_float(x); });
    return;
  }
  read_sealed(sealed_key(sealed(layer), from, head), true, 0, geometry().head_dim, key);
}

void OpenBlocks::read_value(std::int64_t layer, RowPlace from, std::int64_t head,
                            float* value) const {
  if (is_open(from.block)) {
    const BFloat16* row = row_at(v_open(layer), from.block - geometry().num_blocks, from.row, head);
    std::transform(row, row + geometry().v_head_dim, value, [](BFloat16 x) { return to_float(x); });
    return;
  }
  read_sealed(sealed_value(sealed(layer), from, head), false, 0, geometry().v_head_dim, value);
}

void OpenBlocks::seal_with(const SealFunctions& functions, int num_threads) {
  const std::lock_guard lock(sealing_);
  functions_ = functions;
  num_threads_ = num_threads;
}

// A layer of a block at a time, as threads come for them.
void OpenBlocks::seal(std::span<const BlockInSlot> blocks) const {
  const KvGeometry& g = geometry();
  const std::int64_t parts = std::ssize(blocks) * g.num_layers;
  const std::int64_t numbers =
      parts * g.num_kv_heads * g.block_size * (g.head_dim + g.own_v_head_dim());
  const Crew crew = crew_for(numbers, kNumbersPerThread, parts, num_threads_);
  std::atomic<std::int64_t> next{0};
  const auto seal_parts = [&](int) {
    for (std::int64_t part = next++; part < parts; part = next++) {
      seal(blocks[part / g.num_layers], part % g.num_layers);
    }
  };
  try {
    run_on_threads(crew, std::ref(seal_parts));
  } catch (const std::bad_alloc&) {  // no memory for a thread
    run_on_threads(1, std::ref(seal_parts));
  }
}

void OpenBlocks::seal(BlockInSlot from, std::int64_t layer) const {
  const KvGeometry& g = geometry();
  const ArrayView keys = k_open(layer), values = v_open(layer);
  const SealedLayer to = sealed(layer);
  const auto rows_of = [&](const ArrayView& open, std::int64_t head) {
    return RowsToSeal{open.at(from.slot, 0, head), open.strides[1], open.dtype, g.block_size,
                      open.shape[3]};
  };
  const auto rows_to = [&](const ArrayView& cache, const ArrayView& scale, std::int64_t head) {
    return SealedRows{cache.at(from.block, 0, head), cache.strides[1],
                      scale.at(from.block, 0, head), scale.strides[1]};
  };
  for (std::int64_t head = 0; head < g.num_kv_heads; ++head) {
    const SealedRow k = sealed_key(to, {from.block, 0}, head);
    functions_.seal_keys(rows_of(keys, head), g.dtype,
                         {k.numbers, to.k.strides[1], k.scale, to.k_scale.strides[1]});
    if (g.shared) continue;
    functions_.seal_values(rows_of(values, head), g.dtype, rows_to(to.v, to.v_scale, head));
  }
}

}  // namespace quire
