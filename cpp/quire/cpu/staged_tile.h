// Tiles of int4 caches as rows of float32, copied one KV head at a time, so that who reads them
// need not know of grids or of open blocks between the others.
#pragma once

#include "quire/cpu/int4_rows.h"
#include "quire/cpu/key_tile.h"

namespace quire {

template <class S, int kKeys>
struct StagedTile {
  using Rows = AttentionRows<S>;
  using Tile = KeyTile<S, kKeys>;

  static bool is_needed(const AttentionTask& task) { return task.k.dtype == DType::int4; }

  // AttentionTask::staging for tiles of up to kKeys keys.
  static std::int64_t scratch_floats(const AttentionTask& task) {
    if (!is_needed(task)) return 0;
    const std::int64_t d = Rows::padded(task.head_dim);
    return Int4Rows<S>::grid_floats(d) + kKeys * (d + Rows::padded(task.v_head_dim));
  }

  // `task`, which outlives it, for those who read the copies.
  static AttentionTask as_read(const AttentionTask& task, float* staging) {
    AttentionTask read = task;
    read.stored = &task;
    read.staging = staging;
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
    for (int i = 0; i < tile.num_keys(); ++i) {
      const auto key = tile.stored_k(task, head, i);
      if (key.grid != nullptr) {
        int4.load_key(key.data, key.grid, task.head_dim, k + i * d);
      } else {
        Rows::load_floats(key.data, task.k_open.dtype, task.head_dim, 1.0f, k + i * d);
      }
    }
    for (int i = 0; dv > 0 && i < tile.num_keys(); ++i) {
      const auto value = tile.stored_v(task, head, i);
      if (value.grid != nullptr) {
        Int4Rows<S>::load_value(value.data, value.grid, task.v_head_dim, v + i * dv);
      } else {
        Rows::load_floats(value.data, task.v_open.dtype, task.v_head_dim, 1.0f, v + i * dv);
      }
    }
    copies.find_copies(tile, k, d, v, dv);
  }
};

}  // namespace quire
