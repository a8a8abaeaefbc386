// The memory that is read of a tile, as extents, in the order in which it lies there.
//
// One core reads small pieces from random places far more slowly than long ones: pieces of 4 KiB at
// two thirds of the speed of those of 16 KiB. A block's rows of all KV heads lie together as a
// rule, in pools keys and values as well, and so they are asked for together.
#pragma once

#include "quire/cpu/attention/key_tile.h"

namespace quire {

template <class S>
class TileExtents {
 public:
  using Rows = AttentionRows<S>;
  static constexpr std::int64_t kLine = 64;

  struct Extent {
    const std::byte* begin;
    const std::byte* end;
  };

  // How many KV heads of a tile of num_keys are asked for at a time, of `heads`.
  static std::int64_t heads_at_a_time(const AttentionTask& task, std::int64_t num_keys,
                                      std::int64_t heads, std::int64_t most_bytes) {
    const std::int64_t bytes = num_keys * (Rows::key_bytes(task) + own_value_bytes(task));
    const std::int64_t by_room = Rows::larger(1, most_bytes / Rows::larger(1, bytes));
    if (by_token(task)) return Rows::smaller(heads, by_room);
    // of keys, values and the scales of both, for each token, or for each block
    const bool tokens_follow =
        task.k.token_stride == Rows::key_bytes(task) &&
        (are_within_keys(task) || task.v.token_stride == own_value_bytes(task));
    const std::int64_t places =
        tokens_follow ? Rows::smaller(num_keys, num_keys / task.block_size + 2) : num_keys;
    return Rows::smaller(heads, Rows::smaller(by_room, kMostExtents / (4 * places)));
  }

  // Those of KV heads [head, head + heads), up to the first of an open block.
  template <class Tile>
  void assign(const AttentionTask& task, const Tile& tile, std::int64_t head, std::int64_t heads) {
    count_ = 0;
    const bool has_grids = task.k.scale.kind == ScaleKind::grids;
    for (int i = 0; i < tile.num_blocks() && tile.block_begin(i) < tile.num_sealed(); ++i) {
      const int first = tile.block_begin(i);
      const std::int64_t tokens = tile.block_end(i) - first;
      const auto at = [first](TileRows rows) { return rows.rows[first] + rows.offset; };
      const std::int64_t own_scales = task.v.scale.data == task.k.scale.data ? 0 : tokens;
      const Scales scales[] = {
          {at(tile.k_scales(task, head)), task.k.scale, has_grids ? 1 : tokens,
           has_grids ? task.head_dim * std::int64_t{sizeof(Int4Grid)} : kScaleBytes},
          {at(tile.v_scales(task, head)), task.v.scale, own_scales, kScaleBytes}};
      add_block(task, at(tile.k(task, head)), at(tile.v(task, head)), scales, tokens, heads);
    }
  }
  void clear() { count_ = 0; }

  const Extent* begin() const { return extents_; }
  const Extent* end() const { return extents_ + count_; }

 private:
  // Values that are the beginnings of their keys, as those of latent attention, come with these.
  static bool are_within_keys(const AttentionTask& task) {
    return task.v.data == task.k.data && task.v.block_stride == task.k.block_stride &&
           task.v.token_stride == task.k.token_stride && task.v.head_stride == task.k.head_stride &&
           Rows::row_bytes(task.v.dtype, task.v_head_dim) <= Rows::key_bytes(task);
  }
  // Of a row that is not one of keys as well.
  static std::int64_t own_value_bytes(const AttentionTask& task) {
    return are_within_keys(task) ? 0 : Rows::row_bytes(task.v.dtype, task.v_head_dim);
  }

  // A token's heads lie together.
  static bool by_token(const AttentionTask& task) {
    return task.k.head_stride == Rows::key_bytes(task) &&
           (are_within_keys(task) || task.v.head_stride == own_value_bytes(task));
  }

  static constexpr std::int64_t kScaleBytes = sizeof(float);
  static_assert(sizeof(Int4Grid) == sizeof(float));
  static constexpr int kMostExtents = 512;

  // Those of some tokens, or the grids of their block; of no tokens where they are others' too.
  struct Scales {
    const std::byte* first;
    const ScaleView& scale;
    std::int64_t tokens, item_bytes;

    std::int64_t bytes(std::int64_t heads) const {
      return (tokens - 1) * scale.token_stride + (heads - 1) * scale.head_stride + item_bytes;
    }
    // In lines of which most are read; not static ones, which are always near.
    bool lie_together(std::int64_t heads) const {
      return scale.block_stride != 0 && bytes(heads) / kLine <= 2 * tokens * heads;
    }
  };

  // `tokens` of a block and KV heads from one on whose first key and value are at k and v.
  void add_block(const AttentionTask& task, const std::byte* k, const std::byte* v,
                 const Scales (&scales)[2], std::int64_t tokens, std::int64_t heads) {
    const std::int64_t k_bytes = Rows::key_bytes(task);
    const std::int64_t v_bytes = own_value_bytes(task);
    const std::int64_t stride = task.k.head_stride;
    const auto is_within = [&](const std::byte* first) { return first > k && first - k < stride; };
    std::int64_t bytes = tokens * (k_bytes + v_bytes);
    const std::byte* end = v_bytes == 0 ? k + tokens * k_bytes : v + tokens * v_bytes;
    for (const Scales& each : scales) {
      if (each.tokens == 0) continue;
      if (is_within(each.first)) {
        bytes += each.bytes(1);
        end = each.first + each.bytes(1);
      } else if (each.lie_together(heads)) {
        add(each.first, each.bytes(heads));
      }
    }
    const bool is_tile =
        v_bytes == 0 ? task.k.token_stride == k_bytes && bytes <= stride : is_within(v);
    if (is_tile && 4 * bytes >= 3 * stride) {  // hardly anything else lies there
      return add(k, (heads - 1) * stride + (end - k));
    }
    if (by_token(task)) {
      add_rows(k, task.k, tokens, heads * k_bytes);
      add_rows(v, task.v, tokens, heads * v_bytes);
      return;
    }
    for (std::int64_t h = 0; h < heads; ++h) {
      add_rows(k + h * stride, task.k, tokens, k_bytes);
      if (is_within(v)) add_rows(v + h * task.v.head_stride, task.v, tokens, v_bytes);
      for (const Scales& each : scales) {
        if (is_within(each.first)) add(each.first + h * each.scale.head_stride, each.bytes(1));
      }
    }
    for (std::int64_t h = 0; !is_within(v) && h < heads; ++h) {
      add_rows(v + h * task.v.head_stride, task.v, tokens, v_bytes);
    }
  }

  void add_rows(const std::byte* first, const CacheView& cache, std::int64_t tokens,
                std::int64_t bytes) {
    if (cache.token_stride == bytes) return add(first, tokens * bytes);
    for (std::int64_t token = 0; token < tokens; ++token) {
      add(first + token * cache.token_stride, bytes);
    }
  }

  void add(const std::byte* first, std::int64_t bytes) {
    if (bytes <= 0) return;  // of nothing, or backwards
    if (count_ > 0 && extents_[count_ - 1].end == first) {
      extents_[count_ - 1].end += bytes;
    } else {
      extents_[count_++] = {first, first + bytes};
    }
  }

  int count_ = 0;
  Extent extents_[kMostExtents];
};

}  // namespace quire
