// The rows of a tile of keys, looked up once in the block table for all heads.
#pragma once

#include "quire/base/int4_grid.h"
#include "quire/cpu/attention_rows.h"

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
    num_keys_ = static_cast<int>(Rows::smaller(kKeys, key_end - key));
    std::int64_t column = key / task.block_size;
    std::int64_t offset = key % task.block_size;
    Block block = block_at(task, unit, column);
    const bool aligned = key % S::kWidth == 0 && task.block_size % S::kWidth == 0;
    k_scale_runs_ = aligned && task.k.scale.token_stride == sizeof(float);
    v_scale_runs_ = aligned && task.v.scale.token_stride == sizeof(float);
    const bool has_k_scale = task.k.scale.data != nullptr;
    const bool has_v_scale = task.v.scale.data != nullptr;
    num_sealed_ = num_keys_;
    num_k_grids_ = num_v_grids_ = 0;
    const bool has_grids = has_k_scale && has_v_scale && task.k.dtype == DType::int4;
    const bool v_grids_follow = task.v.scale.token_stride == sizeof(Int4Grid);
    for (int i = 0; i < num_keys_; ++i) {
      if (offset == task.block_size) {
        offset = 0;
        block = block_at(task, unit, ++column);
      }
      if (block.open && i < num_sealed_) num_sealed_ = i;
      k_[i] = Rows::row_at(*block.k, block.id, offset);
      v_[i] = Rows::row_at(*block.v, block.id, offset);
      if (has_k_scale) k_scale_[i] = Rows::scale_at(block.k->scale, block.id, offset);
      if (has_v_scale) v_scale_[i] = Rows::scale_at(block.v->scale, block.id, offset);
      if (has_grids && i < num_sealed_) {
        if (i == 0 || offset == 0) k_grids_[num_k_grids_++] = k_scale_[i];
        const bool line_begins = i == 0 || offset % kGridsOfLine == 0;
        if (line_begins || !v_grids_follow) v_grids_[num_v_grids_++] = v_scale_[i];
      }
      ++offset;
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
    num_k_grids_ = num_v_grids_ = 0;
    for (int i = 0; i < kKeys; ++i) {
      const int row = i < num_keys_ ? i : num_keys_ - 1;
      k_[i] = reinterpret_cast<const std::byte*>(k + row * k_stride);
      v_[i] = reinterpret_cast<const std::byte*>(v + row * v_stride);
    }
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

  // Asks for the lines of the scales of heads [head, head + heads), but not for those of grids.
  // Inlined, as GCC takes a function that does nothing else for one without effect.
  [[gnu::always_inline]] void prefetch_scales(const AttentionTask& task, std::int64_t head,
                                              std::int64_t heads) const {
    for (std::int64_t h = head; num_k_grids_ == 0 && h < head + heads; ++h) {
      prefetch_scales(task.k.scale, k_scale_, k_scale_runs_, h);
      prefetch_scales(task.v.scale, v_scale_, v_scale_runs_, h);
    }
  }

  std::int64_t first() const { return first_; }
  int num_keys() const { return num_keys_; }
  int num_sealed() const { return num_sealed_; }  // keys before the first of an open block
  // Where the grids of keys begin, and each line of those of values, of sealed rows.
  int num_k_grids() const { return num_k_grids_; }
  TileRows k_grids(const AttentionTask& task, std::int64_t head) const {
    return {k_grids_, head * task.k.scale.head_stride};
  }
  int num_v_grids() const { return num_v_grids_; }
  TileRows v_grids(const AttentionTask& task, std::int64_t head) const {
    return {v_grids_, head * task.v.scale.head_stride};
  }
  TileRows k(const AttentionTask& task, std::int64_t head) const {
    return {k_, head * task.k.head_stride};
  }
  TileRows v(const AttentionTask& task, std::int64_t head) const {
    return {v_, head * task.v.head_stride};
  }

 private:
  static constexpr std::int64_t kGridsOfLine = 64 / sizeof(Int4Grid);

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

  [[gnu::always_inline]] void prefetch_scales(const ScaleView& scale,
                                              const std::byte* const* scales, bool runs,
                                              std::int64_t head) const {
    constexpr std::uintptr_t kLine = 64;
    if (scale.data == nullptr) return;
    std::uintptr_t asked = 0;
    for (int i = 0; i < num_sealed_; i += runs ? S::kWidth : 1) {
      const std::byte* const p = scales[i] + head * scale.head_stride;
      const std::uintptr_t line = reinterpret_cast<std::uintptr_t>(p) / kLine;
      if (line != asked) S::prefetch(p);
      asked = line;
    }
  }

  const std::byte* k_[kKeys];
  const std::byte* v_[kKeys];
  const std::byte* k_scale_[kKeys];  // set where the caches have scales; null of open blocks
  const std::byte* v_scale_[kKeys];
  bool k_scale_runs_, v_scale_runs_;
  std::int64_t first_;
  const std::byte* k_grids_[kKeys];  // before the first open block
  const std::byte* v_grids_[kKeys];
  int num_keys_, num_sealed_, num_k_grids_, num_v_grids_;
};

}  // namespace quire
