#include "quire/paged/make_pool.h"

namespace quire {

std::shared_ptr<BlockPool> make_pool(const KvGeometry& geometry, const BackingFile& file,
                                     std::optional<Execution> how) {
  auto pool = std::make_shared<BlockPool>(geometry, file);
  if (!geometry.opens_blocks()) return pool;
  if (!how) how = default_execution();
  pool->seal_with(how->kernels->cache->seal, how->num_threads);
  return pool;
}

}  // namespace quire
