// Keys whose last numbers lie in an array of their own, as the latents and the rotary keys of
// latent attention may: a tile of them is joined in the caches of the processor, one KV head at a
// time, as bytes, so that who reads the rows has what one array of them would give, and its bits.
#pragma once

#include "quire/cpu/attention/key_tile.h"

namespace quire {

template <class S, int kKeys>
struct JoinedTile {
  using Rows = AttentionRows<S>;
  using Tile = KeyTile<S, kKeys>;

  static bool is_needed(const AttentionTask& task) { return task.tail_dim > 0; }

  // AttentionTask::staging for tiles of up to kKeys keys.
  static std::int64_t scratch_floats(const AttentionTask& task) {
    if (!is_needed(task)) return 0;
    return kKeys * stride(task) / std::int64_t{sizeof(float)};
  }

  // `task`, which outlives it, for those who read the joined rows. Values stay where they are.
  static AttentionTask as_read(const AttentionTask& task, float* staging) {
    AttentionTask read = task;
    read.stored = &task;
    read.staging = staging;
    read.k.token_stride = stride(task);
    read.k.head_stride = 0;
    return read;
  }

  // Joins the rows of one KV head of a tile of `unit`, and finds them.
  static void make(const AttentionTask& task, const AttentionUnit& unit, const Tile& tile,
                   std::int64_t head, float* staging, Tile& joined) {
    const TileRows fronts = tile.k(task, head);
    const auto front_bytes = static_cast<std::size_t>(Rows::key_bytes(task));
    const auto tail_bytes = static_cast<std::size_t>(Rows::row_bytes(task.k.dtype, task.tail_dim));
    const std::int64_t step = stride(task);
    auto* const first = reinterpret_cast<std::byte*>(staging);
    std::byte* to = first;
    for (int block = 0; block < tile.num_blocks(); ++block) {
      const std::int64_t key = tile.first() + tile.block_begin(block);
      const std::int64_t id = Rows::block_id(unit.blocks, key / task.block_size);
      const std::byte* tail = Rows::row_at(task.k_tail, id, key % task.block_size);
      tail += head * task.k_tail.head_stride;
      for (int i = tile.block_begin(block); i < tile.block_end(block); ++i, to += step) {
        __builtin_memcpy(to, fronts.rows[i] + fronts.offset, front_bytes);
        __builtin_memcpy(to + front_bytes, tail, tail_bytes);
        tail += task.k_tail.token_stride;
      }
    }
    joined.find_joined(tile, first, step);
  }

 private:
  // Of a joined row, in bytes: whole lines.
  static std::int64_t stride(const AttentionTask& task) {
    constexpr std::int64_t kLine = 64;
    return (Rows::row_bytes(task.k.dtype, task.head_dim) + kLine - 1) / kLine * kLine;
  }
};

}  // namespace quire
