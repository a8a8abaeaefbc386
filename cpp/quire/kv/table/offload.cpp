// Of BlockTable: out of memory, and back in.
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"

namespace quire {
namespace {

Residency& required_residency(const BlockPool& pool, std::string_view function) {
  if (!pool.residency().is_limited()) {
    raise<ValueError>(place(function, "table"),
                      "got one of a pool without backing_file and resident_bytes, expected one "
                      "whose blocks can leave memory");
  }
  pool.storage().memory().require_written(function);
  return pool.residency();
}

}  // namespace

std::int64_t BlockTable::offload() {
  constexpr std::string_view function = "BlockTable.offload";
  const BlockPool::Delivery delivery(*pool_);
  const std::shared_lock lock(mutex_);
  require_in_use(function);
  Residency& residency = required_residency(*pool_, function);
  std::vector<std::int32_t> own, shared;
  own.reserve(columns_.blocks.size());
  shared.reserve(columns_.blocks.size());
  {
    const BlockPool::Books books(*pool_);
    for (const std::int32_t block : columns_.blocks) {
      if (block < 0 || pool_->is_open_alone(block)) continue;
      (books->is_shared_with_caches_alone(block) ? own : shared).push_back(block);
    }
  }
  residency.age(residency.slabs(shared));
  const std::int64_t moved = residency.part_with(residency.slabs(own));
  pool_->storage().memory().require_written(function);
  return moved;
}

std::int64_t BlockTable::restore() {
  constexpr std::string_view function = "BlockTable.restore";
  const BlockPool::Delivery delivery(*pool_);
  const std::shared_lock lock(mutex_);
  require_in_use(function);
  Residency& residency = required_residency(*pool_, function);
  // What is read open is there, and has no use for its tile.
  const std::vector<std::int64_t> slabs = residency.slabs(
      std::span(columns_.blocks).first(static_cast<std::size_t>(columns_.first_open())));
  const auto num_slabs = static_cast<std::int64_t>(slabs.size());
  if (num_slabs > residency.capacity()) {
    const std::int64_t bytes = pool_->storage().block_bytes();
    raise<ValueError>(place(function, "table"), "got ", num_slabs * bytes,
                      " bytes, expected at most the ", residency.capacity() * bytes,
                      " that the pool keeps in memory beside what it streams and has open");
  }
  const std::vector<std::int64_t> missing = residency.missing(slabs);
  residency.keep(slabs);
  residency.ask_for(missing);
  residency.bring_in(missing);
  check_interruption();
  return residency.num_blocks(missing);
}

}  // namespace quire
