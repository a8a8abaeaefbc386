// What the kernels take and offer: plain data and function pointers, so that no code compiled for
// one instruction set can be called but through its table.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/dtype.h"
#include "quire/base/row_sealing.h"

namespace quire {

// A float array of up to two leading axes and a contiguous last one; strides in bytes.
struct RowsView {
  std::byte* data;
  std::int64_t strides[2];
  DType dtype;
};

// The scales of a quantised cache: that of (block, offset, kv_head), a float, lies at the sum of
// its strides, in bytes. Those of a scale that many share are 0. Without `data` there are none.
// Of an int4 cache they are grids (int4_grid.h): of a key block and head one for each channel, one
// after the other, and of a value and head one.
struct ScaleView {
  const std::byte* data;
  std::int64_t block_stride, token_stride, head_stride;
};

// A paged cache: row (block, offset, kv_head) begins at the sum of its strides, in bytes.
struct CacheView {
  const std::byte* data;
  std::int64_t block_stride, token_stride, head_stride;
  DType dtype;
  ScaleView scale;
};

// One sequence's row of the block table, int64.
struct BlockRow {
  const std::byte* data;
  std::int64_t stride;  // bytes
};

// What all units of one call share.
struct AttentionTask {
  RowsView q;    // [T, Hq] rows of head_dim
  RowsView out;  // [T, Hq] rows of v_head_dim
  float* lse;    // [T, Hq], or null
  CacheView k, v;
  CacheView k_open, v_open;   // of blocks from first_open on, the first of which is their block 0
  std::int64_t first_open;    // the largest int64 where there are none
  const float* alibi_slopes;  // [Hq], or null
  const float* sinks;         // [Hq], or null
  std::int64_t head_dim, v_head_dim, num_heads, group, block_size;
  double scale;
  double softcap;  // 0: none
  bool causal;
  bool has_fast_pairs;  // of bfloat16, as many products a cycle as of floats: kernel_list.h
  // Where rows are read from copies that are made of a tile at a time (staged_tile.h): the task as
  // it is stored, and room for the copies. Else null.
  const AttentionTask* stored;
  float* staging;
};

// A query token: a row of q, and the key of its own.
struct QueryToken {
  std::int64_t q_row;
  std::int64_t own_key;
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
  std::int64_t window;  // keys that a row sees, its own included; the largest int64: all
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

// Keys whose sums a part leaves in float32, a multiple of every kernel's tile.
inline constexpr std::int64_t kSumKeys = 512;

// The softmax over some of the keys, of every row of a unit, in float32 and in units of log2:
// maximum[r], sums[r] (kWidth partial sums of 2^(score - maximum)) and values[r], the sum of
// 2^(score - maximum) * v, not yet divided, in the order of lanes that v's dtype loads in.
struct StateView {
  float* maximum;  // [rows]; -inf: no key yet
  float* sums;     // [rows, width]
  float* values;   // [rows, padded v_head_dim]
  // Of parts of more than kSumKeys keys, until all of them are in: carried_sums.h. Else null.
  float* carried = nullptr;
};

// Where the softmax weights of some keys are summed by block, for the rows of a unit.
struct BlockMassView {
  float* mass;                // [T, num_heads, num_columns]
  std::int64_t num_columns;   // of the block table
  std::int64_t first_column;  // what stands here and after is of this view's maxima
  float* maximum;             // [rows], in log2; -inf: no key yet
};

// `count` rows of `length` elements, from one array to another; strides in bytes.
struct RowsCopy {
  const std::byte* from;
  std::int64_t from_stride;
  std::byte* to;
  std::int64_t to_stride;
  std::int64_t count, length;
};

// The most parts that one unit's keys are split into.
inline constexpr std::int64_t kMostParts = 64;

struct Kernels {
  const char* name;
  int width;  // floats of a vector; rows are padded to a multiple of two

  // The state of a part. `scratch`: fused_scratch(task, rows) floats. `upcoming`: what the caller
  // computes next, whose first keys are asked for in advance, or null.
  void (*fused_part)(const AttentionTask& task, const AttentionPart& part,
                     const AttentionPart* upcoming, float* scratch, StateView state);
  std::int64_t (*fused_scratch)(const AttentionTask& task, std::int64_t rows);
  // Whether fused_part looks at the dynamic scales of a part, or the grids.
  bool (*looks_at_scales)(const AttentionTask& task, const AttentionPart& part);
  // Merges states [num_parts <= kMostParts] in order, adds the sinks, divides, and writes out and
  // lse.
  void (*finish)(const AttentionTask& task, const AttentionUnit& unit, const StateView* states,
                 std::int64_t num_parts);

  // Attention of `unit`, which has one KV head, over its first sink_tokens keys and keys
  // [key_begin, key_end) copied together, written to out and lse. `scratch`: gather_scratch(task,
  // sink_tokens + key_end - key_begin) floats.
  void (*gather)(const AttentionTask& task, const AttentionUnit& unit, std::int64_t sink_tokens,
                 std::int64_t key_begin, std::int64_t key_end, float* scratch);
  std::int64_t (*gather_scratch)(const AttentionTask& task, std::int64_t num_keys);

  // Adds the weights 2^(score - maximum) of a part's keys to the columns of `mass`, for the rows of
  // its unit, which has one KV head; where a maximum grows, what is there shrinks. No column may be
  // another thread's. `scratch`: block_mass_scratch(task, rows) floats.
  void (*block_mass)(const AttentionTask& task, const AttentionPart& part, float* scratch,
                     const BlockMassView& mass);
  std::int64_t (*block_mass_scratch)(const AttentionTask& task, std::int64_t rows);

  // Rows of one dtype as rows of another, rounded to nearest even; both plain floats.
  void (*convert)(const RowsCopy& rows, DType from, DType to);

  // The largest magnitude of `count` plain floats; NaN where one of them is not finite.
  float (*largest)(const std::byte* from, DType dtype, std::int64_t count);

  // Elements divided by `scale`, cut off at largest_number(to, scale) and rounded to nearest even,
  // as numbers of a quantised dtype. All are finite, and the scale positive.
  void (*quantise)(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype,
                   std::int64_t count, float scale);

  // Rows as those of sealed blocks.
  SealFunctions seal;

  // `rounds` of multiply-adds of registers, in float32 or of pairs of bfloat16: returns the FLOPs
  // done, 0 where there is no such instruction, and their sum. For arithmetic_peak.h.
  double (*arithmetic)(DType dtype, std::int64_t rounds, float* total);
};

}  // namespace quire
