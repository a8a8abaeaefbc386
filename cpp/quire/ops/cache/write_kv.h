// Writing new keys and values into a paged cache.
#pragma once

#include "quire/ops/attention/paged_attention.h"

namespace quire {

// Row i of k and v goes to slot s = slot_mapping[i], that is offset s % block_size of block
// s / block_size. A slot of -1 skips the row; of rows with one slot the last wins. Values are
// rounded to nearest even into the cache's dtype.
//
// Without v and v_cache the values are the beginnings of their keys, and not written by themselves
// (latent attention, arXiv 2405.04434, section 2.1). Then there is no v_scale and no v_open, and
// the cache is not of int4, whose keys and values are on grids of two kinds.
//
// Into a quantised cache they are divided by a scale first, in float32 (cache_scales.h): one that
// is given, beyond which they are cut off, or one of their own, which is written beside them: for a
// token and head the largest magnitude / largest_of(dtype), at least the smallest normal float. A
// row that is not skipped must be finite, and so is what is read back.
//
// Beside quantised caches, slots from num_blocks * block_size on are those of open blocks, which
// store plain floats. What they are rounded to must be finite.
//
// A block of an int4 cache is written whole, as its keys share their grids: all of its slots are
// named, or none. Rows that are not skipped are at most kLargestOnGrid in magnitude, open or not.
struct WriteKvArgs {
  ArrayView k;                 // [n, Hkv, D]
  std::optional<ArrayView> v;  // [n, Hkv, Dv]
  ArrayView k_cache;  // see `layout`, last axis D, written; of int4 both are, last axis D / 2
  std::optional<ArrayView> v_cache;  // see `layout`, last axis Dv, written; of int4 Dv / 2
  IndexView slot_mapping;            // [n]
  Layout layout = Layout::NHD;
  std::optional<ArrayView> k_scale = std::nullopt;  // of a quantised k_cache; dynamic: written
  std::optional<ArrayView> v_scale = std::nullopt;  // of a quantised v_cache
  std::optional<ArrayView> k_open = std::nullopt;   // beside quantised ones, as PagedAttentionArgs
  std::optional<ArrayView> v_open = std::nullopt;   // has them; written
  ArgumentNames names = {};                         // for messages
};

}  // namespace quire
