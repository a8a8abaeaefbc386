#include "quire/kv/open_blocks.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

namespace quire {
namespace {

constexpr std::int64_t kItem = sizeof(BFloat16);

// What kLargestOnGrid is rounded to.
constexpr float kLargestOpen = 65536.0f;

constexpr Int4Grid kNoGrid = {{0x7e00}, {0x7e00}};  // NaN

// Numbers that a grid can hold; 0 for those that none can, which are noted.
void put_on_grid(const BFloat16* numbers, std::int64_t size, float* out, std::uint8_t* is_off) {
  for (std::int64_t i = 0; i < size; ++i) {
    const float value = to_float(numbers[i]);
    const bool is_held = std::abs(value) <= kLargestOpen;  // not of a NaN
    is_off[i] |= static_cast<std::uint8_t>(!is_held);
    out[i] = is_held ? std::clamp(value, -kLargestOnGrid, kLargestOnGrid) : 0.0f;
  }
}

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
  assert(is_quantised(geometry().dtype));
  const KvGeometry& g = geometry();
  // A tile has these numbers, so their count overflows nothing.
  constexpr std::int64_t alignment = KvStorage::kTileAlignment;
  const std::int64_t numbers = g.block_size * (g.head_dim + g.v_head_dim);
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
    raise<ValueError>("BlockPool: num_blocks", "got ", g.num_blocks,
                      " blocks of more bytes than an address can count, expected fewer or smaller");
  }
  memory_ = std::make_unique<BlockMemory>(
      bytes, g.num_blocks, is_in_pages ? BlockMemory::Claim::pages : BlockMemory::Claim::addresses);
  rows_.resize(g.block_size * std::max(g.head_dim, g.v_head_dim));
  is_off_grid_.resize(std::max(g.head_dim, g.v_head_dim));
}

void OpenBlocks::clear(std::int32_t slot) noexcept {
  memory_->clear({slot * slot_bytes_, (slot + 1) * slot_bytes_});
}

ArrayView OpenBlocks::view(const char* place, std::int64_t layer, std::int64_t offset,
                           std::int64_t row_size) const {
  const KvGeometry& g = geometry();
  if (layer < 0 || layer >= g.num_layers) {
    raise<IndexError>(place, "got ", layer, ", expected 0 to ", g.num_layers - 1);
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
  return view("BlockPool.k_open: layer", layer, 0, geometry().head_dim);
}

ArrayView OpenBlocks::v_open(std::int64_t layer) const {
  return view("BlockPool.v_open: layer", layer, geometry().block_size * geometry().head_dim * kItem,
              geometry().v_head_dim);
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
  const ArrayView opens[] = {k_open(layer), v_open(layer)};
  if (is_open(from.block)) {
    for (const ArrayView& open : opens) {
      for (std::int64_t head = 0; head < geometry().num_kv_heads;
           ++head) {  // its rows lie together
        std::memcpy(open.at(to.block - num_blocks, to.row, head),
                    open.at(from.block - num_blocks, from.row, head),
                    static_cast<std::size_t>(rows * open.strides[1]));
      }
    }
    return;
  }
  const SealedLayer sealed_rows = sealed(layer);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t head = 0; head < geometry().num_kv_heads; ++head) {
      const RowPlace place = {from.block, from.row + row};
      const auto row_of = [&](const ArrayView& open) {
        return reinterpret_cast<BFloat16*>(open.at(to.block - num_blocks, to.row + row, head));
      };
      const SealedRow key = sealed_key(sealed_rows, place, head);
      round_numbers(
          geometry().head_dim, row_of(opens[0]),
          [&](std::int64_t at, std::int64_t n, float* out) { read_sealed(key, true, at, n, out); });
      const SealedRow value = sealed_value(sealed_rows, place, head);
      round_numbers(geometry().v_head_dim, row_of(opens[1]),
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
          is_int4() ? layer.k_scale.at(from.block, head)
                    : layer.k_scale.at(from.block, from.row, head)};
}

OpenBlocks::SealedRow OpenBlocks::sealed_value(const SealedLayer& layer, RowPlace from,
                                               std::int64_t head) {
  return {layer.v.at(from.block, from.row, head), layer.v_scale.at(from.block, from.row, head)};
}

void OpenBlocks::read_sealed(SealedRow row, bool is_key, std::int64_t at, std::int64_t count,
                             float* out) const {
  if (!is_int4()) {
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

void OpenBlocks::seal(std::int32_t slot, std::int32_t block) {
  for (std::int64_t layer = 0; layer < geometry().num_layers; ++layer) {
    const ArrayView keys = k_open(layer), values = v_open(layer);
    const SealedLayer to = sealed(layer);
    for (std::int64_t head = 0; head < geometry().num_kv_heads; ++head) {
      if (is_int4()) seal_keys_of(row_at(keys, slot, 0, head), sealed_key(to, {block, 0}, head));
      for (std::int64_t row = 0; row < geometry().block_size; ++row) {
        const SealedRow value = sealed_value(to, {block, row}, head);
        if (is_int4()) {
          seal_value_of(row_at(values, slot, row, head), value);
          continue;
        }
        seal_row_of(row_at(keys, slot, row, head), geometry().head_dim,
                    sealed_key(to, {block, row}, head));
        seal_row_of(row_at(values, slot, row, head), geometry().v_head_dim, value);
      }
    }
  }
}

void OpenBlocks::seal_row_of(const BFloat16* row, std::int64_t size, SealedRow to) {
  std::transform(row, row + size, rows_.data(), [](BFloat16 x) { return to_float(x); });
  *reinterpret_cast<float*>(to.scale) = seal_row(rows_.data(), size, geometry().dtype, to.numbers);
}

void OpenBlocks::seal_keys_of(const BFloat16* keys, SealedRow to) {
  const std::int64_t tokens = geometry().block_size, head_dim = geometry().head_dim;
  std::fill(is_off_grid_.begin(), is_off_grid_.end(), std::uint8_t{0});
  for (std::int64_t token = 0; token < tokens; ++token) {
    put_on_grid(keys + token * head_dim, head_dim, rows_.data() + token * head_dim,
                is_off_grid_.data());
  }
  seal_keys(rows_.data(), tokens, head_dim, to.numbers, head_dim / 2, to.grids());
  for (std::int64_t d = 0; d < head_dim; ++d) {
    if (is_off_grid_[d] != 0) to.grids()[d] = kNoGrid;
  }
}

void OpenBlocks::seal_value_of(const BFloat16* value, SealedRow to) {
  const std::int64_t size = geometry().v_head_dim;
  std::fill(is_off_grid_.begin(), is_off_grid_.end(), std::uint8_t{0});
  put_on_grid(value, size, rows_.data(), is_off_grid_.data());
  seal_value(rows_.data(), size, to.numbers, to.grids());
  if (std::find(is_off_grid_.begin(), is_off_grid_.end(), 1) != is_off_grid_.end()) {
    *to.grids() = kNoGrid;
  }
}

}  // namespace quire
