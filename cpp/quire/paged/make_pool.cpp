#include "quire/paged/make_pool.h"

namespace quire {

std::shared_ptr<BlockPool> make_pool(const KvGeometry& geometry, const BackingFile& file,
                                     const Execution& how) {
  auto pool = std::make_shared<BlockPool>(geometry, file);
  pool->seal_with(how.kernels->cache->seal, how.num_threads);
  return pool;
}

}  // namespace quire
