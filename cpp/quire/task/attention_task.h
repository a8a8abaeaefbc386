// What attention's kernels are told of a call: what its units share, a unit, and a part of one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/task/cache_view.h"

namespace quire {

// What all units of one call share.
struct AttentionTask {
  RowsView q;    // [T, Hq] rows of head_dim
  RowsView out;  // [T, Hq] rows of v_head_dim
  float* lse;    // [T, Hq], or null
  CacheView k, v;
  CacheView k_open, v_open;  // of blocks from first_open on, the first of which is their block 0
  std::int64_t first_open;   // the largest int64 where there are none
  // Where the last tail_dim numbers of keys lie, if not with those of k; it has their dtype and
  // scales. Else tail_dim is 0.
  CacheView k_tail;
  std::int64_t tail_dim;
  const float* alibi_slopes;  // [Hq], or null
  const float* sinks;         // [Hq], or null
  std::int64_t head_dim, v_head_dim, num_heads, group, block_size;
  double scale;
  double softcap;  // 0: none
  // Where rows are read from copies that are made of a tile at a time (tile_copies.h): the task as
  // it is stored, and room for the copies. Else null.
  const AttentionTask* stored;
  float* staging;
};

// A query token: a row of q, and the key of its own; below 0 where a sequence has more queries than
// keys.
struct QueryToken {
  std::int64_t q_row;
  std::int64_t own_key;
};

// How far a row sees that sees all.
inline constexpr std::int64_t kAllKeys = INT64_MAX;

// Which of its last keys the queries of a sequence see, whatever causality would say: a row of as
// many bools for each query, from key `first` on, which is below 0 where there are more queries
// than keys. All see the keys before.
struct TreeView {
  const bool* rows;  // null: no tree
  std::int64_t num_keys;
  std::int64_t first;
};

// Some query tokens of one sequence, or of several that share the keys of a part, and some of their
// KV heads. Its rows are (kv_head, token, head of the group), in this order.
struct AttentionUnit {
  BlockRow blocks;
  std::int64_t num_tokens;
  QueryToken first_token;          // each of the next ones is one row and one key on
  const QueryToken* tokens;        // or, of several sequences, all of them; else null
  std::int64_t tokens_of_one_seq;  // num_tokens, or each one's: decides how rows are computed
  // [seq_len], growing: where keys stand, and the queries of their tokens; null: key j at j
  const std::int64_t* positions;
  std::int64_t seq_len;
  // Which keys a row sees: those at so many positions before and after its own, or kAllKeys. Where
  // it is causal there are none after it, in every part.
  std::int64_t left, right;
  bool causal;
  TreeView tree;  // from the row of the first token on
  // Of a unit as a whole: the sequence's first keys, so many, that are seen beside a row's window.
  std::int64_t sink_tokens;
  std::int64_t kv_head_begin, kv_head_end;
  // Rows that each KV head has in states: its own, tokens x group, and where they are more than
  // kRowStep some that hold nothing, up to a multiple of it.
  std::int64_t head_rows;
};
inline constexpr std::int64_t kRowStep = 4;

// Some of the keys of a unit: [key_begin, key_end).
struct AttentionPart {
  AttentionUnit unit;
  std::int64_t key_begin, key_end;
  // Where not null, a kernel that looks at scales itself makes it true once that of one of these
  // keys is not sound (cache_scales.h). Threads share it.
  bool* has_bad_scale = nullptr;
  // Of a piece of keys some others of which are open: all pieces are read in the same way, as their
  // part would be.
  bool is_beside_open = false;
  // Of a piece: keys of the same part that earlier calls took, whose states this one goes on from,
  // and whether a later one goes on from its own.
  std::int64_t keys_before = 0;
  bool goes_on = false;
};

}  // namespace quire
