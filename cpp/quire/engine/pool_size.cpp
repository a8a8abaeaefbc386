#include "quire/engine/pool_size.h"

#include <algorithm>
#include <cmath>

#include "quire/base/check.h"

namespace quire {
namespace {

constexpr double kMebibyte = 1 << 20;

std::string mebibytes(double bytes) {
  return concat(static_cast<std::int64_t>(bytes / kMebibyte), " MiB");
}

}  // namespace

PoolSize choose_pool_size(const KvGeometry& geometry, std::int64_t max_positions,
                          std::int64_t max_sequences, std::int64_t available_bytes) {
  KvGeometry one = geometry;
  one.num_blocks = 1;
  const KvStorage block(one);
  const std::int64_t blocks_each = (max_positions + geometry.block_size - 1) / geometry.block_size;
  const double most_useful = static_cast<double>(blocks_each) * static_cast<double>(max_sequences);
  const std::int64_t half = available_bytes / 2;
  const double affordable =
      std::floor(static_cast<double>(half) / static_cast<double>(block.nbytes()));
  // Block ids are int32.
  const double most = std::min({most_useful, affordable, static_cast<double>(1 << 30)});
  const std::int64_t num_blocks = std::max<std::int64_t>(1, static_cast<std::int64_t>(most));
  const std::string bytes = mebibytes(static_cast<double>(num_blocks * block.nbytes()));
  if (most_useful <= affordable) {
    return {num_blocks, concat(bytes, ", room for ", max_sequences, " sequences of ", max_positions,
                               " tokens")};
  }
  return {num_blocks,
          concat(bytes, ", half of the ", mebibytes(static_cast<double>(available_bytes)),
                 " of memory that are available")};
}

}  // namespace quire
