// Attention that reads the scattered blocks where they lie, one pass over keys and values.
//
// A unit's queries go through its keys a tile at a time: the tile's row pointers are looked up once
// in the block table, then each KV head scores it, takes it into the softmax and adds its values,
// for all query rows of that head. Tiles are the outer loop, as a block's heads lie together in
// memory. Few rows are bound by memory and read it directly; many are bound by arithmetic and worth
// a packed copy of the keys. Rows of int4 caches are read as copies in float32 (staged_tile.h), or,
// by few rows where there is arithmetic for it, as the codes that they are (int4_attention.h).
#pragma once

#include "quire/cpu/attention/direct_attention.h"
#include "quire/cpu/attention/int4_attention.h"
#include "quire/cpu/attention/packed_attention.h"

namespace quire {

template <class S>
struct FusedAttention {
  template <int kKeys>
  using Direct = DirectAttention<S, kKeys>;
  using Packed = PackedAttention<S, 128>;

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    std::int64_t floats = own_scratch(task, rows) + Staged::scratch_floats(task);
    if constexpr (S::kDotsInt16) {
      if (task.k.dtype != DType::int4) return floats;
      floats = AttentionRows<S>::larger(floats, Int4Attention<S>::scratch_floats(task, rows));
    }
    return floats;
  }

  // Kernels::looks_at_scales: where they are multiplied once for few rows, not where rows are
  // copied.
  static bool looks_at_scales(const AttentionTask& task, const AttentionPart& part) {
    if (!Staged::is_needed(task, part)) return is_direct(task, part.unit);
    return multiplies_codes(task, part.unit);
  }

  static void part(const AttentionTask& task, const AttentionPart& part,
                   const AttentionPart* upcoming, float* scratch, StateView state) {
    if (!Staged::is_needed(task, part)) return attend(task, part, upcoming, scratch, state);
    if constexpr (S::kDotsInt16) {
      if (multiplies_codes(task, part.unit)) {
        return Int4Attention<S>(task, part.unit, scratch, state).run(part, upcoming);
      }
    }
    const std::int64_t rows =
        part.unit.head_rows * (part.unit.kv_head_end - part.unit.kv_head_begin);
    attend(Staged::as_read(task, scratch + own_scratch(task, rows)), part, upcoming, scratch,
           state);
  }

 private:
  using Staged = StagedTile<S, 128>;  // of the longest tiles

  static bool multiplies_codes(const AttentionTask& task, const AttentionUnit& unit) {
    if constexpr (S::kDotsInt16) {
      return task.k.dtype == DType::int4 && Int4Attention<S>::takes(task, unit);
    }
    return false;
  }

  static std::int64_t own_scratch(const AttentionTask& task, std::int64_t rows) {
    return AttentionRows<S>::larger(Direct<kDirectKeys>::scratch_floats(task, rows),
                                    Packed::scratch_floats(task, rows));
  }

  static void attend(const AttentionTask& task, const AttentionPart& part,
                     const AttentionPart* upcoming, float* scratch, StateView state) {
    if (!is_direct(task, part.unit)) {
      Packed(task, part.unit, scratch, state).run(part, upcoming);
    } else if (takes_long_tiles(task, part)) {
      Direct<kDirectKeys>(task, part.unit, scratch, state).run(part, upcoming);
    } else {
      Direct<kDirectKeys / 2>(task, part.unit, scratch, state).run(part, upcoming);
    }
  }

  // Keys and values that the direct path takes at a time, where it has a choice: rows that share a
  // KV head go through them one group after the other, and are to find them in the first-level
  // cache, of which they may have half.
  static constexpr std::int64_t kDirectBytes = 16 * 1024;

  static bool takes_long_tiles(const AttentionTask& task, const AttentionPart& part) {
    const std::int64_t key_bytes = AttentionRows<S>::row_bytes(task.k.dtype, task.head_dim) +
                                   AttentionRows<S>::row_bytes(task.v.dtype, task.v_head_dim);
    return kDirectKeys * key_bytes <= kDirectBytes &&
           part.key_end - part.key_begin > kDirectKeys / 2;
  }

  // Packing costs as much as a key is long, and adding up across lanes, which it saves, as there
  // are rows. The rule is where they were measured to break even. Rows of other sequences do not
  // count, as the two ways add up in different orders.
  static bool is_direct(const AttentionTask& task, const AttentionUnit& unit) {
    const std::int64_t rows = unit.tokens_of_one_seq * task.group;
    return rows <= kRowStep || (rows <= 8 && rows * 16 <= task.head_dim);
  }
};

}  // namespace quire
