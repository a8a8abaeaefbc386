// The rows of a tile of keys, looked up once in the block table for all heads.
#pragma once

#include "quire/cpu/attention_rows.h"

namespace quire {

// Where the rows of a tile lie, for KV head 0; `offset` leads on to the wanted head. Rows past the
// last key repeat it, so that a pointer can always be read.
struct TileRows {
  const std::byte* const* rows;
  std::int64_t offset;  // bytes
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
    std::int64_t block = Rows::block_id(unit.blocks, column);
    for (int i = 0; i < num_keys_; ++i) {
      if (offset == task.block_size) {
        offset = 0;
        block = Rows::block_id(unit.blocks, ++column);
      }
      k_[i] = task.k.data + block * task.k.block_stride + offset * task.k.token_stride;
      v_[i] = task.v.data + block * task.v.block_stride + offset * task.v.token_stride;
      ++offset;
    }
    for (int i = num_keys_; i < kKeys; ++i) {
      k_[i] = k_[num_keys_ - 1];
      v_[i] = v_[num_keys_ - 1];
    }
  }

  std::int64_t first() const { return first_; }
  int num_keys() const { return num_keys_; }
  TileRows k(const AttentionTask& task, std::int64_t head) const {
    return {k_, head * task.k.head_stride};
  }
  TileRows v(const AttentionTask& task, std::int64_t head) const {
    return {v_, head * task.v.head_stride};
  }

 private:
  const std::byte* k_[kKeys];
  const std::byte* v_[kKeys];
  std::int64_t first_;
  int num_keys_;
};

}  // namespace quire
