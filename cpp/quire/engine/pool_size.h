// How many blocks an engine has where nobody says.
#pragma once

#include <cstdint>
#include <string>

#include "quire/kv/residency/kv_storage.h"

namespace quire {

struct PoolSize {
  std::int64_t num_blocks;
  std::string reason;  // as a sentence for people
};

// As many as max_sequences sequences of max_positions tokens need, and at most as many as lie in
// half of `available_bytes`: the rest is for what the model works in, and for others. At least one
// block. The dtype, block size, heads and layers of `geometry` count, its number of blocks does
// not.
PoolSize choose_pool_size(const KvGeometry& geometry, std::int64_t max_positions,
                          std::int64_t max_sequences, std::int64_t available_bytes);

}  // namespace quire
