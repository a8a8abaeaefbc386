#include "quire/ops/attention/block_mass_result.h"

#include <new>

namespace quire {

void make_block_mass(PagedAttentionArgs& args, BlockMassResult& result) {
  std::int64_t count = args.q.shape[0];
  if (__builtin_mul_overflow(count, args.q.shape[1], &count) ||
      __builtin_mul_overflow(count, args.block_tables.shape[1], &count)) {
    throw std::bad_alloc();
  }
  result.values = aligned_floats(count);
  result.max_blocks = args.block_tables.shape[1];
  args.block_mass = result.values.get();
}

}  // namespace quire
