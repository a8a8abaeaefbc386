#include "quire/ops/attention/block_mass_result.h"

#include <limits>
#include <new>

namespace quire {

void make_block_mass(PagedAttentionArgs& args, BlockMassResult& result) {
  std::int64_t count = args.q.shape[0];
  if (__builtin_mul_overflow(count, args.q.shape[1], &count) ||
      __builtin_mul_overflow(count, args.block_tables.shape[1], &count) ||
      count > std::numeric_limits<std::int64_t>::max() / 8) {
    throw std::bad_alloc();
  }
  result.values.reset(new (std::nothrow) float[static_cast<std::size_t>(count)]);
  if (result.values == nullptr) throw std::bad_alloc();
  result.max_blocks = args.block_tables.shape[1];
  args.block_mass = result.values.get();
}

}  // namespace quire
