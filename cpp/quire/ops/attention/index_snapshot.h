// The indices of a call, copied before they are used.
//
// Attention runs for a while and without Python's lock. A scheduler that already fills in the table
// of its next step, on another thread, must not turn an index that was checked into one that was
// not.
#pragma once

#include <cstdint>
#include <vector>

#include "quire/ops/attention/paged_attention.h"

namespace quire {

struct IndexSnapshot {
  std::vector<std::int64_t> block_tables;   // [B, most used columns]
  std::vector<std::int64_t> seq_lens;       // [B]
  std::vector<std::int64_t> cu_seqlens_q;   // [B + 1], or empty
  std::vector<std::int64_t> key_positions;  // [B, most tokens], or empty

  // Copies the indices of validated `args`, and returns them with views of the copies in place of
  // the caller's arrays; these are valid while this lives and is not taken again. To be validated
  // anew.
  PagedAttentionArgs take(const PagedAttentionArgs& args);
};

}  // namespace quire
