// Pools that seal their blocks with the kernels of this processor.
#pragma once

#include <memory>

#include "quire/cpu/execution.h"
#include "quire/kv/pool/block_pool.h"

namespace quire {

// A pool, as BlockPool's constructor makes it, whose open blocks, where it has such, are sealed by
// the kernels of `how` on its threads. One that is made without this seals with plain loops on one
// thread, as `kv` knows no processors; the bits are the same. Throws as BlockPool's constructor
// does, and default_execution.
std::shared_ptr<BlockPool> make_pool(const KvGeometry& geometry, const BackingFile& file = {},
                                     const Execution& how = default_execution());

}  // namespace quire
