// Paged attention, the operation: what it computes, its arguments, and what every implementation of
// it shares. Implementations: reference.h (float64), and quire/cpu (fused and gather).
//
// For query row t of sequence b, head h, key j of that sequence:
//
//   score(j) = scale * q[t, h] . k[j, h / group]           group = Hq / Hkv
//   score(j) = softcap * tanh(score(j) / softcap)          if softcap
//   score(j) = score(j) + alibi_slopes[h] * (position(j) - position(t))   if alibi_slopes
//   out[t, h] = sum_j softmax(score)(j) * v[j, h / group]
//
// over the keys that the row sees (visible_keys.h). A sink is one more logit per head in the
// softmax's sum, with no value. A row that sees no key is 0 and its lse is -inf, sink or none.
#pragma once

#include <cstdint>
#include <optional>

#include "quire/base/array_view.h"
#include "quire/ops/argument_names.h"
#include "quire/ops/attention/attention_query.h"
#include "quire/ops/attention/key_pager.h"

namespace quire {

enum class Layout : std::uint8_t {
  NHD,  // a cache is [num_blocks, block_size, num_kv_heads, head_dim]
  HND,  // a cache is [num_blocks, num_kv_heads, block_size, head_dim]
};

// Hkv: key/value heads, of which Hq is a multiple.
struct PagedAttentionArgs : AttentionQuery {
  ArrayView k_cache;  // see `layout`, last axis D, any DType; of int4 both are, last axis D / 2
  ArrayView v_cache;  // see `layout`, last axis Dv, any DType; of int4 Dv / 2; may be k_cache's
  // Where the last Dt numbers of keys do not lie with the others: like k_cache, with its dtype and
  // scales, last axis Dt; that of k_cache is then D - Dt. Not of int4, nor beside open blocks.
  std::optional<ArrayView> k_tail;
  IndexView block_tables;  // [B, max_blocks]; past ceil(seq_len / block_size) ignored, and -1 (a
                           // hole) where no query sees a key of the block
  IndexView seq_lens;      // [B], tokens in the cache, those of q included
  // [B, max_tokens]: where each key stands, and the query of its token, growing from 0 or more;
  // past seq_len ignored. None: key j stands at j.
  std::optional<IndexView> key_positions;
  // [T, Hq, max_blocks] contiguous, written: what the keys of each block have of the row's softmax;
  // 0 where it sees none of them. With the sink's share a row sums to 1. Null: not wanted.
  float* block_mass = nullptr;
  // Beside quantised caches: blocks of plain floats, like k_cache and v_cache but for their number.
  // In block_tables, block num_blocks + i is the i-th of them.
  std::optional<ArrayView> k_open;
  std::optional<ArrayView> v_open;
  Layout layout = Layout::NHD;
  // Of caches that are not all in memory: fused attention asks it, and so does block mass.
  KeyPager* pager = nullptr;
  ArgumentNames names;  // for messages
};

// The sizes that the shapes of valid arguments spell.
struct PagedAttentionSizes {
  std::int64_t num_tokens;    // T
  std::int64_t num_seqs;      // B
  std::int64_t num_heads;     // Hq
  std::int64_t num_kv_heads;  // Hkv
  std::int64_t head_dim;      // D
  std::int64_t v_head_dim;    // Dv
  std::int64_t block_size;
  std::int64_t num_blocks;  // of k_cache
  std::int64_t num_open;    // of k_open
  std::int64_t group;       // Hq / Hkv
};

inline PagedAttentionSizes sizes_of(const PagedAttentionArgs& args) {
  const int block_axis = args.layout == Layout::NHD ? 1 : 2;
  const int head_axis = 3 - block_axis;
  PagedAttentionSizes sizes{};
  sizes.num_tokens = args.q.shape[0];
  sizes.num_seqs = args.seq_lens.shape[0];
  sizes.num_heads = args.q.shape[1];
  sizes.num_kv_heads = args.k_cache.shape[head_axis];
  sizes.head_dim = args.q.shape[2];
  sizes.v_head_dim = args.v_cache.shape[3] * numbers_of(args.v_cache.dtype);
  sizes.block_size = args.k_cache.shape[block_axis];
  sizes.num_blocks = args.k_cache.shape[0];
  sizes.num_open = args.k_open ? args.k_open->shape[0] : 0;
  sizes.group = sizes.num_heads / sizes.num_kv_heads;
  return sizes;
}

// The query rows of one sequence: rows [begin, end) of q, the last tokens of `seq_len` ones.
struct QueryRows {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t seq_len;
  std::int64_t seq;

  // The key of the token whose query row `begin + j` is.
  std::int64_t key(std::int64_t j) const { return seq_len - (end - begin) + j; }
};

inline QueryRows query_rows(const PagedAttentionArgs& args, std::int64_t seq) {
  const std::int64_t begin = args.cu_seqlens_q ? args.cu_seqlens_q->at(seq) : seq;
  const std::int64_t end = args.cu_seqlens_q ? args.cu_seqlens_q->at(seq + 1) : seq + 1;
  return {begin, end, args.seq_lens.at(seq), seq};
}

// Keys [begin, end) of a sequence; none where begin >= end.
struct KeyRange {
  std::int64_t begin;
  std::int64_t end;
};

}  // namespace quire
