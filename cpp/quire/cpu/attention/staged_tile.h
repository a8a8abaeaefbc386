// Tiles of quantised caches as rows of float32, copied one KV head at a time, so that who reads
// them need not know of grids or of open blocks between the others.
//
// An int4 cache is read so always, the others where a part has an open block: which way a part goes
// depends on its own sequence, and so do the bits. Either way its states are in the order of lanes
// of the values' dtype, as those of other parts are merged with them.
#pragma once

#include "quire/cpu/attention/key_tile.h"
#include "quire/cpu/cache/int4_rows.h"

namespace quire {

template <class S, int kKeys>
struct StagedTile {
  using Rows = AttentionRows<S>;
  using Tile = KeyTile<S, kKeys>;

  static bool may_be_needed(const AttentionTask& task) {
    return has_grids(task) || task.k_open.data != nullptr;
  }
  static bool is_needed(const AttentionTask& task, const AttentionPart& part) {
    if (has_grids(task) || part.is_beside_open) return true;
    if (task.k_open.data == nullptr || part.key_begin >= part.key_end) return false;
    const std::int64_t last = (part.key_end - 1) / task.block_size;
    for (std::int64_t column = part.key_begin / task.block_size; column <= last; ++column) {
      if (Rows::block_id(part.unit.blocks, column) >= task.first_open) return true;
    }
    return false;
  }

  // AttentionTask::staging for tiles of up to kKeys keys.
  static std::int64_t scratch_floats(const AttentionTask& task) {
    if (!may_be_needed(task)) return 0;
    const std::int64_t d = Rows::padded(task.head_dim);
    return Int4Rows<S>::grid_floats(d) + kKeys * (d + Rows::padded(task.v_head_dim));
  }

  // `task`, which outlives it, for those who read the copies.
  static AttentionTask as_read(const AttentionTask& task, float* staging) {
    AttentionTask read = task;
    read.stored = &task;
    read.staging = staging;
    read.v_head_dim = Rows::padded(task.v_head_dim);  // in the order of lanes all may be elements
    for (CacheView* cache : {&read.k, &read.v}) {
      cache->dtype = DType::float32;
      cache->head_stride = 0;
      cache->scale = {};
    }
    return read;
  }

  // Copies the rows of one KV head, and finds them.
  static void make(const AttentionTask& task, const Tile& tile, std::int64_t head, float* staging,
                   Tile& copies) {
    const std::int64_t d = Rows::padded(task.head_dim);
    const std::int64_t dv = Rows::padded(task.v_head_dim);
    Int4Rows<S> int4(staging);
    float* const k = staging + Int4Rows<S>::grid_floats(d);
    float* const v = k + kKeys * d;
    const bool on_grids = has_grids(task);
    for (int i = 0; i < tile.num_keys(); ++i) {
      const auto key = tile.stored_k(task, head, i);
      if (key.grid == nullptr) {
        Rows::load_floats(key.data, task.k_open.dtype, task.head_dim, 1.0f, k + i * d);
      } else if (on_grids) {
        int4.load_key(key.data, key.grid, task.head_dim, k + i * d);
      } else {
        Rows::load_floats(key.data, task.k.dtype, task.head_dim, key.scale(), k + i * d);
      }
    }
    for (int i = 0; dv > 0 && i < tile.num_keys(); ++i) {
      const auto value = tile.stored_v(task, head, i);
      if (value.grid == nullptr) {
        Rows::load_floats(value.data, task.v_open.dtype, task.v_head_dim, 1.0f, v + i * dv);
      } else if (on_grids) {
        Int4Rows<S>::load_value(value.data, value.grid, task.v_head_dim, v + i * dv);
      } else {
        Rows::load_floats(value.data, task.v.dtype, task.v_head_dim, value.scale(), v + i * dv);
      }
      arrange(task.v.dtype, dv, v + i * dv);
    }
    copies.find_copies(tile, k, d, v, dv);
  }

 private:
  static bool has_grids(const AttentionTask& task) { return task.k.scale.kind == ScaleKind::grids; }

  // From natural order to that in which values of `dtype` load.
  static void arrange(DType dtype, std::int64_t padded, float* row) {
    Rows::visit_cache(dtype, [&](auto type) {
      for (std::int64_t d = 0; d < padded; d += Rows::kChunk) {
        const auto pair = S::template from_natural<decltype(type)>(
            {S::load(row + d), S::load(row + d + S::kWidth)});
        S::store(row + d, pair.lo);
        S::store(row + d + S::kWidth, pair.hi);
      }
    });
  }
};

}  // namespace quire
