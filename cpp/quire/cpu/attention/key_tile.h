// The rows of a tile of keys, looked up once in the block table for all heads.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/format/int4_grid.h"

namespace quire {

// Where the rows of a tile lie, for KV head 0; `offset` leads on to the wanted head. Rows past the
// last key repeat it, so that a pointer can always be read.
struct TileRows {
  const std::byte* const* rows;
  std::int64_t offset;  // bytes
};

// What the keys and values of a tile are multiples of, a float for each key; null: of 1.
struct KeyScales {
  const float* k;
  const float* v;
};

template <class S, int kKeys>
class KeyTile {
 public:
  using Rows = AttentionRows<S>;

  // The keys [key, key + kKeys) of `unit`, as far as they come before key_end.
  void find(const AttentionTask& task, const AttentionUnit& unit, std::int64_t key,
            std::int64_t key_end) {
    first_ = key;
    num_keys_ = num_sealed_ = static_cast<int>(Rows::smaller(kKeys, key_end - key));
    num_blocks_ = 0;
    std::int64_t column = key / task.block_size;
    std::int64_t offset = key % task.block_size;
    const bool aligned = key % S::kWidth == 0 && task.block_size % S::kWidth == 0;
    k_scale_runs_ = aligned && task.k.scale.token_stride == sizeof(float);
    v_scale_runs_ = aligned && task.v.scale.token_stride == sizeof(float);
    for (int i = 0; i < num_keys_; ++column, offset = 0) {
      const Block block = block_at(task, unit, column);
      if (block.open && i < num_sealed_) num_sealed_ = i;
      block_begin_[num_blocks_++] = i;
      const std::byte* k = Rows::row_at(*block.k, block.id, offset);
      const std::byte* v = Rows::row_at(*block.v, block.id, offset);
      const std::byte* k_scale = Rows::scale_at(block.k->scale, block.id, offset);
      const std::byte* v_scale = Rows::scale_at(block.v->scale, block.id, offset);
      const auto end = static_cast<int>(Rows::smaller(num_keys_, i + task.block_size - offset));
      for (; i < end; ++i) {
        k_[i] = k;
        v_[i] = v;
        k_scale_[i] = k_scale;
        v_scale_[i] = v_scale;
        k += block.k->token_stride;
        v += block.v->token_stride;
        k_scale += block.k->scale.token_stride;
        v_scale += block.v->scale.token_stride;
      }
    }
    for (int i = num_keys_; i < kKeys; ++i) {
      k_[i] = k_[num_keys_ - 1];
      v_[i] = v_[num_keys_ - 1];
    }
  }

  // The scales of the tile's keys, 1 past the last, of caches that have them; else the results are
  // null. `to`: 2 * kKeys floats.
  KeyScales load_scales(const AttentionTask& task, std::int64_t head, float* to) const {
    return {load_scales(task.k.scale, k_scale_, k_scale_runs_, head, to),
            load_scales(task.v.scale, v_scale_, v_scale_runs_, head, to + kKeys)};
  }

  // The same keys, whose rows are copies one after the other, so many bytes apart.
  void find_copies(const KeyTile& keys, const float* k, std::int64_t k_stride, const float* v,
                   std::int64_t v_stride) {
    first_ = keys.first_;
    num_keys_ = num_sealed_ = keys.num_keys_;
    k_scale_runs_ = v_scale_runs_ = false;  // copies have no scales, and no grids
    num_blocks_ = 0;                        // and nobody asks for them
    for (int i = 0; i < kKeys; ++i) {
      const int row = i < num_keys_ ? i : num_keys_ - 1;
      k_[i] = reinterpret_cast<const std::byte*>(k + row * k_stride);
      v_[i] = reinterpret_cast<const std::byte*>(v + row * v_stride);
    }
  }

  // The same keys and values, the rows of keys elsewhere, one after the other, so many bytes apart.
  void find_joined(const KeyTile& keys, const std::byte* k, std::int64_t k_stride) {
    *this = keys;
    for (int i = 0; i < kKeys; ++i) k_[i] = k + (i < num_keys_ ? i : num_keys_ - 1) * k_stride;
  }

  // A row of a quantised cache and its grid, or its scale in the same place; or of an open block,
  // and null.
  struct StoredRow {
    const std::byte* data;
    const Int4Grid* grid;  // the first of a key's

    float scale() const { return Rows::load_scale(reinterpret_cast<const std::byte*>(grid)); }
  };
  StoredRow stored_k(const AttentionTask& task, std::int64_t head, int i) const {
    return stored_row(task.k, task.k_open, k_[i], k_scale_[i], head);
  }
  StoredRow stored_v(const AttentionTask& task, std::int64_t head, int i) const {
    return stored_row(task.v, task.v_open, v_[i], v_scale_[i], head);
  }

  // The grids of the tile's values; of open blocks and past the last key they are 0. `to`: kKeys.
  void copy_grids_of_values(const AttentionTask& task, std::int64_t head, Int4Grid* to) const {
    auto* const floats = reinterpret_cast<float*>(to);
    if (num_sealed_ == num_keys_ && v_scale_runs_) {
      load_scales(task.v.scale, v_scale_, true, head, floats);
      for (int i = num_keys_; i < kKeys; ++i) to[i] = {};
      return;
    }
    for (int i = 0; i < kKeys; ++i) {
      to[i] = {};
      if (i >= num_keys_ || v_scale_[i] == nullptr) continue;
      __builtin_memcpy(to + i, v_scale_[i] + head * task.v.scale.head_stride, sizeof(Int4Grid));
    }
  }

  // Whether key i is of a sealed block, of an int4 cache.
  bool is_sealed(int i) const { return v_scale_[i] != nullptr; }

  // Calls visit(begin, end, whether they are open) for the longest runs of the keys [first, last)
  // that are all open, or all not.
  template <class Visit>
  void for_runs(int first, int last, Visit visit) const {
    if (last <= num_sealed_) return visit(first, last, false);
    for (int begin = first; begin < last;) {
      const bool open = k_scale_[begin] == nullptr;
      int end = begin + 1;
      while (end < last && (k_scale_[end] == nullptr) == open) ++end;
      visit(begin, end, open);
      begin = end;
    }
  }

  std::int64_t first() const { return first_; }
  int num_keys() const { return num_keys_; }
  int num_sealed() const { return num_sealed_; }  // keys before the first of an open block
  // The keys [block_begin(i), block_end(i)) are those of block i of the tile.
  int num_blocks() const { return num_blocks_; }
  int block_begin(int i) const { return block_begin_[i]; }
  int block_end(int i) const { return i + 1 < num_blocks_ ? block_begin_[i + 1] : num_keys_; }
  TileRows k(const AttentionTask& task, std::int64_t head) const {
    return {k_, head * task.k.head_stride};
  }
  TileRows v(const AttentionTask& task, std::int64_t head) const {
    return {v_, head * task.v.head_stride};
  }
  // Set where the caches have scales; null of open blocks.
  TileRows k_scales(const AttentionTask& task, std::int64_t head) const {
    return {k_scale_, head * task.k.scale.head_stride};
  }
  TileRows v_scales(const AttentionTask& task, std::int64_t head) const {
    return {v_scale_, head * task.v.scale.head_stride};
  }

 private:
  // A block, and the caches that it is of.
  struct Block {
    const CacheView* k;
    const CacheView* v;
    std::int64_t id;
    bool open;
  };
  static Block block_at(const AttentionTask& task, const AttentionUnit& unit, std::int64_t column) {
    const std::int64_t id = Rows::block_id(unit.blocks, column);
    if (id < task.first_open) return {&task.k, &task.v, id, false};
    return {&task.k_open, &task.v_open, id - task.first_open, true};
  }

  static StoredRow stored_row(const CacheView& cache, const CacheView& open, const std::byte* row,
                              const std::byte* grid, std::int64_t head) {
    if (grid == nullptr) return {row + head * open.head_stride, nullptr};
    return {row + head * cache.head_stride,
            reinterpret_cast<const Int4Grid*>(grid + head * cache.scale.head_stride)};
  }

  // `runs`: kWidth neighbours lie together.
  const float* load_scales(const ScaleView& scale, const std::byte* const* scales, bool runs,
                           std::int64_t head, float* to) const {
    if (scale.data == nullptr) return nullptr;
    const std::int64_t from_head = head * scale.head_stride;
    if (runs) {
      int i = 0;
      const auto at = [&](int key) {
        return reinterpret_cast<const float*>(scales[key] + from_head);
      };
      for (; i + S::kWidth <= num_keys_; i += S::kWidth) S::store(to + i, S::load(at(i)));
      if (i < num_keys_) S::store(to + i, S::load(at(i), num_keys_ - i));
      for (i = num_keys_; i < kKeys; ++i) to[i] = 1.0f;
      return to;
    }
    for (int i = 0; i < num_keys_; ++i) to[i] = Rows::load_scale(scales[i] + from_head);
    for (int i = num_keys_; i < kKeys; ++i) to[i] = 1.0f;
    return to;
  }

  const std::byte* k_[kKeys];
  const std::byte* v_[kKeys];
  const std::byte* k_scale_[kKeys];
  const std::byte* v_scale_[kKeys];
  int block_begin_[kKeys];
  bool k_scale_runs_, v_scale_runs_;
  std::int64_t first_;
  int num_keys_, num_sealed_, num_blocks_;
};

}  // namespace quire
