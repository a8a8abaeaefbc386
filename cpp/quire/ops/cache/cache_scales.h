// The scales of a quantised cache. A real key or value is the stored number times its scale.
//
//   dynamic   [num_blocks, block_size, Hkv]   one for each token and head, whatever the layout
//   static    [Hkv], or [1], or no axis       one for each head, or for the cache
//   of each   [B, Hkv]                        one for each sequence and head, where there are
//                                             sequences: in attention
//
// All are float32, positive and finite. An int4 cache has grids instead (int4_grid.h), a step and a
// middle in float16, dynamic always:
//
//   of keys     [num_blocks, Hkv, D, 2]            one for each channel of a block
//   of values   [num_blocks, block_size, Hkv, 2]   one for each token and head
//
// in either layout, the last two axes of those of keys contiguous and the last of the others. Steps
// are positive and finite, middles finite.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "quire/format/int4_grid.h"
#include "quire/ops/attention/paged_attention.h"
#include "quire/ops/attention/visible_keys.h"

namespace quire {

// Grids are as well.
inline bool is_dynamic(const ArrayView& scale) { return scale.ndim >= 3; }
inline bool has_dynamic_scales(const PagedAttentionArgs& args) {
  return (args.k_scale && is_dynamic(*args.k_scale)) || (args.v_scale && is_dynamic(*args.v_scale));
}

// Bytes from the static scale of one KV head to that of the next.
inline std::int64_t head_stride_of(const ArrayView& static_scale) {
  return static_scale.ndim == 1 && static_scale.shape[0] > 1 ? static_scale.strides[0] : 0;
}

// The address of the scale of a slot and KV head, which may be written where the view may. Not of
// grids, nor of the scales of each sequence.
inline float* scale_at(const ArrayView& scale, std::int64_t block, std::int64_t offset,
                       std::int64_t kv_head) {
  std::byte* const address = scale.ndim == 3 ? scale.at(block, offset, kv_head)
                                             : scale.data + kv_head * head_stride_of(scale);
  return reinterpret_cast<float*>(address);
}

// Whether each sequence has scales of its own; and those of one of them, as the static ones that
// they are for it. Other scales are everybody's.
inline bool is_of_each(const ArrayView& scale) { return scale.ndim == 2; }
inline bool has_scales_of_each(const PagedAttentionArgs& args) {
  return (args.k_scale && is_of_each(*args.k_scale)) || (args.v_scale && is_of_each(*args.v_scale));
}
ArrayView scale_of_sequence(const ArrayView& scale, std::int64_t seq);

// Of each sequence the first one that has the same scales; empty where all have.
std::vector<std::int64_t> sequences_by_scales(const PagedAttentionArgs& args);

// The grids of a block and KV head, one for each channel; and that of a slot.
inline Int4Grid* key_grids_at(const ArrayView& grids, std::int64_t block, std::int64_t kv_head) {
  return reinterpret_cast<Int4Grid*>(grids.at(block, kv_head));
}
inline Int4Grid* value_grid_at(const ArrayView& grids, std::int64_t block, std::int64_t offset,
                               std::int64_t kv_head) {
  return reinterpret_cast<Int4Grid*>(grids.at(block, offset, kv_head));
}

// Throws ValueError, with its place, for a dynamic scale of a key that some query sees and which is
// not positive and finite. `args` are validated. Of int4 caches: for a grid of such a block's keys,
// or of such a value; open blocks have none.
void check_dynamic_scales(const PagedAttentionArgs& args, std::string_view function);

// The same of some keys, each of which some query sees.
struct SequenceKeys {
  std::int64_t seq;
  KeyRange keys;
};
void check_dynamic_scales(const PagedAttentionArgs& args, std::span<const SequenceKeys> some,
                          std::string_view function);

// Whether that would not throw for KV heads [head_begin, head_end).
bool dynamic_scales_are_sound(const PagedAttentionArgs& args, const SequenceKeys& some,
                              std::int64_t head_begin, std::int64_t head_end);

}  // namespace quire
