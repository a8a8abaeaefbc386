#include "quire/kv/residency/kv_storage.h"

#include <cassert>
#include <cstring>
#include <limits>

#include "quire/format/int4_grid.h"

namespace quire {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

void check_size(const char* argument, std::int64_t size, std::int64_t most) {
  if (size >= 1 && size <= most) return;
  const auto where = place("BlockPool", argument);
  if (size < 1) raise<ValueError>(where, "got ", size, ", expected >= 1");
  raise<ValueError>(where, "got ", size, ", expected 1 to ", most);
}

void check_open(const KvGeometry& geometry) {
  const auto refuse = [&](const auto&... expected) {
    raise<ValueError>("BlockPool: open_blocks", "got ", geometry.num_open(), " with dtype ",
                      name_of(geometry.dtype), ", expected ", expected...);
  };
  if (geometry.num_open() != 0 && !is_quantised(geometry.dtype)) {
    refuse("0 or None: it is in full precision");
  }
  const CacheFormat& format = format_of(geometry.dtype);
  if (geometry.num_open() < format.least_open_blocks) {
    refuse(">= ", format.least_open_blocks,
           format.is_sealed_by_block()
               ? concat(": a block of ", name_of(geometry.dtype), " is written open")
               : "");
  }
}

void check_shared(const KvGeometry& geometry) {
  if (!geometry.shared) return;
  if (geometry.v_head_dim > geometry.head_dim) {
    raise<ValueError>("BlockPool: v_head_dim", "got ", geometry.v_head_dim, ", expected 1 to ",
                      geometry.head_dim, ", as a shared value is the beginning of its key");
  }
  if (format_of(geometry.dtype).scales == ScaleKind::grids) {
    raise<ValueError>("BlockPool: shared", "got true with dtype ", name_of(geometry.dtype),
                      ", expected false: its keys have a grid for each channel of a block, its "
                      "values one for each token");
  }
}

void check_sizes(const KvGeometry& geometry) {
  constexpr std::int64_t any = std::numeric_limits<std::int64_t>::max();
  check_size("num_blocks", geometry.num_blocks, kMaxInt32);
  check_size("block_size", geometry.block_size, kMaxInt32);
  check_size("num_kv_heads", geometry.num_kv_heads, any);
  check_size("head_dim", geometry.head_dim, any);
  check_size("v_head_dim", geometry.v_head_dim, any);
  check_size("num_layers", geometry.num_layers, any);
  check_shared(geometry);
  check_open(geometry);
  if (geometry.num_open() > 0) {
    check_size("num_blocks", geometry.num_blocks, (kMaxInt32 - 1) / 2);
  }
  const auto check_even = [&](const char* argument, std::int64_t size) {
    if (size % numbers_of(geometry.dtype) == 0) return;
    raise<ValueError>(place("BlockPool", argument), "got ", size, ", expected an even number for ",
                      name_of(geometry.dtype), ", which has two numbers in a byte");
  };
  check_even("head_dim", geometry.head_dim);
  check_even("v_head_dim", geometry.v_head_dim);
}

// A number of bytes that notices when it grows too large to be one.
struct Bytes {
  std::int64_t value;
  bool overflow = false;

  Bytes& operator+=(std::int64_t other) {
    overflow |= __builtin_add_overflow(value, other, &value);
    return *this;
  }
  Bytes& operator*=(std::int64_t other) {
    overflow |= __builtin_mul_overflow(value, other, &value);
    return *this;
  }
  void round_up(std::int64_t multiple) {
    *this += multiple - 1;
    value -= value % multiple;
  }
};

// More than a mapping needs beside its bytes.
constexpr std::int64_t kMappingSlack = std::int64_t{1} << 22;

}  // namespace

KvStorage::KvStorage(const KvGeometry& geometry, const std::string& backing_file)
    : geometry_(geometry) {
  check_sizes(geometry);
  Bytes bytes{geometry.head_dim / numbers_of(geometry.dtype)};
  bytes += geometry.own_v_head_dim() / numbers_of(geometry.dtype);
  bytes *= geometry.block_size;
  bytes *= static_cast<std::int64_t>(size_of(geometry.dtype));
  if (is_quantised(geometry.dtype)) {
    constexpr std::int64_t item = sizeof(float);  // and of a grid
    static_assert(sizeof(Int4Grid) == item);
    bytes.round_up(item);
    k_scale_offset_ = bytes.value;
    Bytes scales{has_grids() ? geometry.head_dim : geometry.block_size};
    scales *= item;
    bytes += scales.value;
    v_scale_offset_ = geometry.shared ? k_scale_offset_ : bytes.value;
    if (!geometry.shared) bytes += geometry.block_size * item;
    bytes.overflow |= scales.overflow;
  }
  bytes.round_up(kTileAlignment);
  tile_bytes_ = bytes.value;
  bytes *= geometry.num_kv_heads;
  if (!backing_file.empty()) bytes.round_up(BlockMemory::page_bytes());
  block_bytes_ = bytes.value;
  bytes *= geometry.num_blocks;
  layer_bytes_ = bytes.value;
  bytes *= geometry.num_layers;
  bytes += kMappingSlack;
  if (bytes.overflow) {
    raise<ValueError>("BlockPool: num_blocks", "got ", counted(geometry.num_blocks, "block"),
                      " of more bytes than an address can count, expected fewer or smaller");
  }

  memory_ = backing_file.empty() ? std::make_unique<BlockMemory>(nbytes(), geometry.num_blocks)
                                 : std::make_unique<BlockMemory>(nbytes(), backing_file);
}

ArrayView KvStorage::view(std::int64_t layer, std::int64_t offset, std::int64_t row_size) const {
  const auto item = static_cast<std::int64_t>(size_of(geometry_.dtype));
  row_size /= numbers_of(geometry_.dtype);
  ArrayView cache;
  cache.data = memory_->data() + layer * layer_bytes_ + offset;
  cache.dtype = geometry_.dtype;
  cache.ndim = 4;
  cache.shape = {geometry_.num_blocks, geometry_.block_size, geometry_.num_kv_heads, row_size};
  cache.strides = {block_bytes_, row_size * item, tile_bytes_, item};
  return cache;
}

// One for each row.
ArrayView KvStorage::scale_view(std::int64_t layer, std::int64_t offset) const {
  constexpr auto item = static_cast<std::int64_t>(sizeof(float));
  ArrayView scale;
  scale.data = memory_->data() + layer * layer_bytes_ + offset;
  scale.dtype = DType::float32;
  scale.ndim = 3;
  scale.shape = {geometry_.num_blocks, geometry_.block_size, geometry_.num_kv_heads};
  scale.strides = {block_bytes_, item, tile_bytes_};
  return scale;
}

// Likewise, but grids.
ArrayView KvStorage::grid_view(std::int64_t layer, std::int64_t offset) const {
  constexpr auto item = static_cast<std::int64_t>(sizeof(Float16));
  ArrayView grid = scale_view(layer, offset);
  grid.dtype = DType::float16;
  grid.ndim = 4;
  grid.shape[3] = 2;
  grid.strides[3] = item;
  return grid;
}

void KvStorage::check_layer(const char* place, std::int64_t layer) const {
  if (layer >= 0 && layer < geometry_.num_layers) return;
  raise<IndexError>(place, "got ", layer, ", expected 0 to ", geometry_.num_layers - 1);
}

void KvStorage::check_quantised(const char* place) const {
  if (is_quantised(geometry_.dtype)) return;
  raise<TypeError>(place, "got a pool of ", name_of(geometry_.dtype),
                   ", expected one of int8, float8_e4m3fn, float8_e5m2 or int4");
}

ArrayView KvStorage::k_cache(std::int64_t layer) const {
  check_layer("BlockPool.k_cache: layer", layer);
  return view(layer, 0, geometry_.head_dim);
}

ArrayView KvStorage::v_cache(std::int64_t layer) const {
  check_layer("BlockPool.v_cache: layer", layer);
  if (!geometry_.shared) return view(layer, bytes_of(geometry_.head_dim), geometry_.v_head_dim);
  ArrayView values = view(layer, 0, geometry_.head_dim);
  values.shape[3] = geometry_.v_head_dim;
  return values;
}

KvPlanes KvStorage::planes(std::int64_t layer) const {
  assert(!format_of(geometry_.dtype).is_sealed_by_block());
  KvPlanes planes;
  planes.add("k", k_cache(layer));
  if (!geometry_.shared) planes.add("v", v_cache(layer));
  if (is_quantised(geometry_.dtype)) {
    const auto add = [&](std::string_view name, ArrayView scale) {
      scale.ndim = 4;  // a scale is a row of one number
      scale.shape[3] = 1;
      scale.strides[3] = sizeof(float);
      planes.add(name, scale);
    };
    add("k_scale", k_scale(layer));
    if (!geometry_.shared) add("v_scale", v_scale(layer));
  }
  return planes;
}

ArrayView KvStorage::k_scale(std::int64_t layer) const {
  check_quantised("BlockPool.k_scale: pool");
  check_layer("BlockPool.k_scale: layer", layer);
  if (!has_grids()) return scale_view(layer, k_scale_offset_);
  ArrayView grid = grid_view(layer, k_scale_offset_);  // of channels instead of rows
  grid.shape = {geometry_.num_blocks, geometry_.num_kv_heads, geometry_.head_dim, 2};
  grid.strides = {block_bytes_, tile_bytes_, sizeof(Int4Grid), sizeof(Float16)};
  return grid;
}

ArrayView KvStorage::v_scale(std::int64_t layer) const {
  check_quantised("BlockPool.v_scale: pool");
  check_layer("BlockPool.v_scale: layer", layer);
  return has_grids() ? grid_view(layer, v_scale_offset_) : scale_view(layer, v_scale_offset_);
}

void KvStorage::copy_block(std::int32_t from, std::int32_t to) const {
  assert(from >= 0 && from < geometry_.num_blocks && to >= 0 && to < geometry_.num_blocks);
  assert(from != to);
  for (std::int64_t layer = 0; layer < geometry_.num_layers; ++layer) {
    std::byte* base = memory_->data() + layer * layer_bytes_;
    std::memcpy(base + to * block_bytes_, base + from * block_bytes_,
                static_cast<std::size_t>(block_bytes_));
  }
}

void KvStorage::copy_rows(RowPlace from, RowPlace to, std::int64_t rows) const {
  for (std::int64_t layer = 0; layer < geometry_.num_layers; ++layer) {
    copy_rows(layer, from, to, rows);
  }
}

void KvStorage::copy_rows(std::int64_t layer, RowPlace from, RowPlace to, std::int64_t rows) const {
  for (const auto& [name, plane] : planes(layer)) {
    const auto bytes = static_cast<std::size_t>(rows * plane.strides[1]);
    for (std::int64_t head = 0; head < plane.shape[2]; ++head) {  // whose rows lie together
      std::memcpy(plane.at(to.block, to.row, head), plane.at(from.block, from.row, head), bytes);
    }
  }
}

}  // namespace quire
