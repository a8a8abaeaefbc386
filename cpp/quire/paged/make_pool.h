// Pools that seal their blocks with the kernels of this processor.
#pragma once

#include <memory>
#include <optional>

#include "quire/cpu/execution.h"
#include "quire/kv/pool/block_pool.h"

namespace quire {

// A pool, as BlockPool's constructor makes it, whose open blocks, where it has such, are sealed by
// the kernels of `how` on its threads; none: of default_execution(). One that is made without this
// seals with plain loops on one thread, as `kv` knows no processors; the bits are the same. Throws
// as BlockPool's constructor and default_execution do.
std::shared_ptr<BlockPool> make_pool(const KvGeometry& geometry, const BackingFile& file = {},
                                     std::optional<Execution> how = std::nullopt);

}  // namespace quire
