#include "quire/kv/block_pool.h"

#include <cassert>

#include "quire/base/check.h"

namespace quire {

BlockPool::BlockPool(const KvGeometry& geometry)
    : storage_(geometry), ledger_(geometry.num_blocks, geometry.block_size) {}

void BlockPool::Books::require_free(std::int64_t blocks, std::string_view function,
                                    std::int64_t n) const {
  if (blocks <= ledger_.num_free()) return;
  if (can_free(blocks)) return ledger_.reclaim(blocks);
  const std::int64_t cached = ledger_.num_cached();
  raise<OutOfBlocks>(place(function, "n"), "got ", n, ", which takes ", blocks,
                     " blocks, expected at most the ", ledger_.num_free(), " free",
                     cached > 0 ? concat(" and ", cached, " cached") : "");
}

std::vector<std::int32_t> BlockPool::allocate(std::int64_t n) {
  constexpr std::string_view function = "BlockPool.allocate";
  if (n < 0) raise<ValueError>(place(function, "n"), "got ", n, ", expected >= 0");
  if (n > geometry().num_blocks) Books(*this).require_free(n, function, n);
  std::vector<std::int32_t> blocks(n);  // outside the lock, and before anything is taken
  const Books books(*this);
  books.require_free(n, function, n);
  books->give_to_user(blocks);
  return blocks;
}

// A copy: the caller's array may change while it is being read, and must be read once.
std::vector<std::int32_t> BlockPool::checked_ids(const IndexView& ids,
                                                 std::string_view function) const {
  assert(ids.ndim == 1);
  std::vector<std::int32_t> checked(ids.shape[0]);
  for (std::int64_t i = 0; i < ids.shape[0]; ++i) {
    const std::int64_t id = ids.at(i);
    if (id < 0 || id >= geometry().num_blocks) {
      raise<IndexError>(place(function, "ids"), "got block ", id, " at index ", i,
                        ", expected 0 to ", geometry().num_blocks - 1);
    }
    checked[i] = static_cast<std::int32_t>(id);
  }
  return checked;
}

void BlockPool::retain(const IndexView& ids) {
  const auto checked = checked_ids(ids, "BlockPool.retain");
  Books(*this)->retain(checked);
}

void BlockPool::release(const IndexView& ids) {
  const auto checked = checked_ids(ids, "BlockPool.release");
  Books(*this)->release(checked);
}

std::vector<std::int32_t> BlockPool::ref_counts() const {
  std::vector<std::int32_t> counts(geometry().num_blocks);
  const std::lock_guard lock(mutex_);
  for (std::int32_t block = 0; block < geometry().num_blocks; ++block) {
    counts[block] = ledger_.references(block);
  }
  return counts;
}

std::int32_t BlockPool::ref_count(std::int64_t id) const {
  if (id < 0 || id >= geometry().num_blocks) {
    raise<IndexError>("BlockPool.ref_count: id", "got ", id, ", expected 0 to ",
                      geometry().num_blocks - 1);
  }
  const std::lock_guard lock(mutex_);
  return ledger_.references(static_cast<std::int32_t>(id));
}

std::int64_t BlockPool::num_free() const {
  const std::lock_guard lock(mutex_);
  return ledger_.num_free();
}

std::int64_t BlockPool::num_used() const {
  const std::lock_guard lock(mutex_);
  return ledger_.num_used();
}

PoolStats BlockPool::stats() const {
  const std::lock_guard lock(mutex_);
  return ledger_.stats();
}

void BlockPool::check() const {
  const std::lock_guard lock(mutex_);
  ledger_.check();
}

}  // namespace quire
