// The rows that a quantised pool has in full precision: of blocks that are still written, or that a
// sequence has read last.
//
//   slot     [num_layers][num_kv_heads] tiles; as many as the pool has blocks, so that there is
//            always one, and of addresses alone until they are used
//   tile     [block_size][head_dim] keys, then [block_size][v_head_dim] values, bfloat16; padding.
//            Of a pool that shares them values are the beginnings of keys here too
//
// They lie in memory also where the tiles lie in a file: slots are whole pages then, so that those
// that nobody uses take none (open_room.h).
//
// Keys of int4 share grids over a block, and the tokens that matter most are the last: so a block
// is written open and becomes quantised as a whole, sealed, when its sequence has gone on
// (block_table.h says when; its rows stay in its slot for 64 tokens more, column_history.h). Pools
// of int4 always have open blocks, those of int8 and float8 if they are to: rows are quantised one
// by one there (row_scale.h). Which blocks are open, where, stands in open_slots.h. Attention knows
// both kinds of blocks by one kind of id:
//
//   id of a sealed block   its own, 0 to num_blocks - 1
//   id of an open one      num_blocks + its slot
//
// What is sealed depends on the rows alone: whoever does it gets the same bits.
//
// A pool that opens no blocks has this without slots: no id is that of an open block, and there are
// no planes.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>

#include "quire/format/cache_format.h"
#include "quire/format/int4_grid.h"
#include "quire/format/row_sealing.h"
#include "quire/kv/ledger/pool_mutex.h"
#include "quire/kv/residency/kv_storage.h"

namespace quire {

class OpenBlocks {
 public:
  // Throws ValueError for a pool of more bytes than can be addressed, OutOfMemory.
  explicit OpenBlocks(const KvStorage& storage);

  std::int32_t id_of(std::int32_t slot) const {
    return static_cast<std::int32_t>(geometry().num_blocks) + slot;
  }
  bool is_open(std::int32_t id) const { return id >= geometry().num_blocks; }
  std::int64_t slot_bytes() const { return slot_bytes_; }

  // Of a pool with a backing file: gives back the memory of a slot, which is nobody's.
  void clear(std::int32_t slot) noexcept;

  // Writable views of one layer, bfloat16 [num_blocks, block_size, num_kv_heads, head_dim], by
  // slot, and with v_head_dim. Throws TypeError for a pool that opens no blocks, IndexError for an
  // unknown layer.
  ArrayView k_open(std::int64_t layer) const;
  ArrayView v_open(std::int64_t layer) const;
  // Both, named as they are here; none where no blocks are opened.
  KvPlanes planes(std::int64_t layer) const;

  // Copies rows of any block, by its id, into an open one, in every layer or in one: those of a
  // sealed block as the real numbers that they stand for, rounded.
  void copy_rows(RowPlace from, RowPlace to, std::int64_t rows) const;
  void copy_rows(std::int64_t layer, RowPlace from, RowPlace to, std::int64_t rows) const;

  // The key or value of a row of any block, by its id, as float32.
  void read_key(std::int64_t layer, RowPlace from, std::int64_t head, float* key) const;
  void read_value(std::int64_t layer, RowPlace from, std::int64_t head, float* value) const;

  // Had by whoever seals, one at a time, before the pool's lock and after those of tables.
  PoolMutex& sealing() { return sealing_; }
  // What seals from now on, and on at most how many threads; until then the plain functions do, on
  // one. The bits are the same.
  void seal_with(const SealFunctions& functions, int num_threads);

  // Writes all rows in each slot into the tile of its block, in every layer. Of numbers that are
  // not finite, or too large, row_sealing.h says what becomes. Only under sealing().
  struct BlockInSlot {
    std::int32_t slot, block;
  };
  void seal(std::span<const BlockInSlot> blocks) const;

 private:
  const KvGeometry& geometry() const { return storage_.geometry(); }
  ArrayView view(std::string_view function, std::int64_t layer, std::int64_t offset,
                 std::int64_t row_size) const;
  // A row of a sealed block, and the grids of its channels, or its grid, or its scale.
  struct SealedRow {
    std::byte* numbers;
    std::byte* scale;

    Int4Grid* grids() const { return reinterpret_cast<Int4Grid*>(scale); }
  };
  bool has_grids() const { return format_of(geometry().dtype).scales == ScaleKind::grids; }
  struct SealedLayer {
    ArrayView k, v, k_scale, v_scale;
  };
  SealedLayer sealed(std::int64_t layer) const;
  SealedRow sealed_key(const SealedLayer& layer, RowPlace from, std::int64_t head) const;
  static SealedRow sealed_value(const SealedLayer& layer, RowPlace from, std::int64_t head);
  // Numbers [at, at + count) that a row stands for, as floats; of int4 both are even.
  void read_sealed(SealedRow row, bool is_key, std::int64_t at, std::int64_t count,
                   float* out) const;
  void seal(BlockInSlot from, std::int64_t layer) const;

  const KvStorage& storage_;
  std::int64_t tile_bytes_ = 0;
  std::int64_t layer_bytes_ = 0;  // of a slot
  std::int64_t slot_bytes_ = 0;
  std::unique_ptr<BlockMemory> memory_;
  PoolMutex sealing_;  // guards what follows
  SealFunctions functions_ = kPlainSealing;
  int num_threads_ = 1;
};

}  // namespace quire
