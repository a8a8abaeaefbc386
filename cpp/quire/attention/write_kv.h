// Writing new keys and values into a paged cache.
#pragma once

#include "quire/attention/paged_attention.h"

namespace quire {

// Row i of k and v goes to slot s = slot_mapping[i], that is offset s % block_size of block
// s / block_size. A slot of -1 skips the row; of rows with one slot the last wins. Values are
// rounded to nearest even into the cache's dtype.
struct WriteKvArgs {
  ArrayView k;             // [n, Hkv, D]
  ArrayView v;             // [n, Hkv, Dv]
  ArrayView k_cache;       // see `layout`, last axis D, written
  ArrayView v_cache;       // see `layout`, last axis Dv, written
  IndexView slot_mapping;  // [n]
  Layout layout = Layout::NHD;
};

}  // namespace quire
