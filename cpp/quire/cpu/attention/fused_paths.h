// Attention that reads the scattered blocks where they lie, one pass over keys and values, as
// tables of its paths.
//
// A unit's queries go through its keys a tile at a time: the tile's row pointers are looked up once
// in the block table, then each KV head scores it, takes it into the softmax and adds its values,
// for all query rows of that head. Tiles are the outer loop, as a block's heads lie together in
// memory. Few rows are bound by memory and read it directly; many are bound by arithmetic and worth
// a packed copy of the keys. Rows of int4 caches are read as copies in float32 (staged_tile.h), or,
// by few rows where there is arithmetic for it, as the codes that they are (int4_attention.h).
//
// Which way a unit goes depends on the rows of its own sequence alone, not on those of others that
// share its keys: the ways add up in different orders, and round differently.
#pragma once

#include "quire/cpu/attention/attention_kernels.h"
#include "quire/cpu/attention/direct_attention.h"
#include "quire/cpu/attention/finish_attention.h"
#include "quire/cpu/attention/int4_attention.h"
#include "quire/cpu/attention/packed_attention.h"

namespace quire {

// Few rows. Packing costs as much as a key is long, and adding up across lanes, which it saves, as
// there are rows: `takes` is where they were measured to break even.
template <class S>
struct DirectPath {
  static bool takes(const AttentionTask& task, std::int64_t rows) {
    return rows <= kRowStep || (rows <= 8 && rows * 16 <= task.head_dim);
  }

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    return Direct<kDirectKeys>::scratch_floats(task, rows) + Copies::scratch_floats(task);
  }

  // Where they are multiplied once for few rows, not where rows are copied.
  static bool looks_at_scales(const AttentionTask& task, const AttentionPart& part) {
    return !Copies::Staged::is_needed(task, part);
  }

  static void part(const AttentionTask& task, const AttentionPart& part,
                   const AttentionPart* upcoming, float* scratch, StateView state) {
    if (!Copies::are_needed(task, part)) return attend(task, part, upcoming, scratch, state);
    const std::int64_t rows =
        part.unit.head_rows * (part.unit.kv_head_end - part.unit.kv_head_begin);
    float* const staging = scratch + Direct<kDirectKeys>::scratch_floats(task, rows);
    attend(Copies::as_read(task, staging), part, upcoming, scratch, state);
  }

 private:
  template <int kKeys>
  using Direct = DirectAttention<S, kKeys>;
  using Copies = TileCopies<S, kDirectKeys>;  // of the longest tiles

  static void attend(const AttentionTask& task, const AttentionPart& part,
                     const AttentionPart* upcoming, float* scratch, StateView state) {
    if (takes_long_tiles(task, part)) {
      Direct<kDirectKeys>(task, part.unit, scratch, state).run(part, upcoming);
    } else {
      Direct<kDirectKeys / 2>(task, part.unit, scratch, state).run(part, upcoming);
    }
  }

  // Keys and values that this path takes at a time, where it has a choice: rows that share a KV
  // head go through them one group after the other, and are to find them in the first-level cache,
  // of which they may have half.
  static constexpr std::int64_t kDirectBytes = 16 * 1024;

  static bool takes_long_tiles(const AttentionTask& task, const AttentionPart& part) {
    const std::int64_t key_bytes = AttentionRows<S>::row_bytes(task.k.dtype, task.head_dim) +
                                   AttentionRows<S>::row_bytes(task.v.dtype, task.v_head_dim);
    return kDirectKeys * key_bytes <= kDirectBytes &&
           part.key_end - part.key_begin > kDirectKeys / 2;
  }
};

// Any number of rows. kPairsOfBytes: whether numbers of 8 bits are multiplied as bfloat16s.
template <class S, bool kPairsOfBytes>
struct PackedPath {
  static bool takes(const AttentionTask&, std::int64_t) { return true; }

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    return Packed::scratch_floats(task, rows) + Copies::scratch_floats(task);
  }

  static bool looks_at_scales(const AttentionTask&, const AttentionPart&) { return false; }

  static void part(const AttentionTask& task, const AttentionPart& part,
                   const AttentionPart* upcoming, float* scratch, StateView state) {
    if (!Copies::are_needed(task, part)) {
      return Packed(task, part.unit, scratch, state, kPairsOfBytes).run(part, upcoming);
    }
    const std::int64_t rows =
        part.unit.head_rows * (part.unit.kv_head_end - part.unit.kv_head_begin);
    const AttentionTask read = Copies::as_read(task, scratch + Packed::scratch_floats(task, rows));
    Packed(read, part.unit, scratch, state, kPairsOfBytes).run(part, upcoming);
  }

 private:
  static constexpr int kKeys = 128;
  using Packed = PackedAttention<S, kKeys>;
  using Copies = TileCopies<S, kKeys>;
};

// Few rows of int4 caches; more are worth packed copies. Where the vocabulary has whole numbers.
template <class S>
struct CodesPath {
  static bool takes(const AttentionTask& task, std::int64_t rows) {
    return has_grids(task) && Int4Attention<S>::takes(task, rows);
  }

  static bool looks_at_scales(const AttentionTask&, const AttentionPart&) { return true; }

  static void part(const AttentionTask& task, const AttentionPart& part,
                   const AttentionPart* upcoming, float* scratch, StateView state) {
    Int4Attention<S>(task, part.unit, scratch, state).run(part, upcoming);
  }

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    return has_grids(task) ? Int4Attention<S>::scratch_floats(task, rows) : 0;
  }

 private:
  static bool has_grids(const AttentionTask& task) { return task.k.scale.kind == ScaleKind::grids; }
};

template <class S>
struct FusedPaths {
  static constexpr FusedKernels direct(const char* name) { return table<DirectPath<S>>(name); }
  static constexpr FusedKernels packed(const char* name) {
    return table<PackedPath<S, false>>(name);
  }
  static constexpr FusedKernels packed_pairs(const char* name) {
    if constexpr (S::kDotsBFloat16) return table<PackedPath<S, true>>(name);
    return {};
  }
  static constexpr FusedKernels codes(const char* name) {
    if constexpr (S::kDotsInt16) return table<CodesPath<S>>(name);
    return {};
  }

 private:
  template <class Path>
  static constexpr FusedKernels table(const char* name) {
    return {name,
            S::kWidth,
            &Path::takes,
            &Path::part,
            &Path::scratch_floats,
            &Path::looks_at_scales,
            &FinishAttention<S>::run};
  }
};

}  // namespace quire
