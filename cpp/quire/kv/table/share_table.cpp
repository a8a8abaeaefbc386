// Of BlockTable: blocks that several hold.
#include <cassert>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "quire/kv/table/block_table.h"

namespace quire {

std::unique_ptr<BlockTable> BlockTable::fork() const {
  const BlockPool::Delivery delivery(*pool_);
  auto child = std::make_unique<BlockTable>(pool_);
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.fork");
  TableColumns columns = columns_;  // the child's only once it holds the blocks
  TokenPositions positions = positions_;
  {
    const BlockPool::Books books(*pool_);
    books->hold(columns.blocks, columns.last_rows());
    OpenColumns(*pool_, columns).pin(books);
  }
  child->columns_ = std::move(columns);
  child->positions_ = std::move(positions);
  assert(holds([&] { child->check_changed(); }));
  return child;
}

std::vector<ExplainedBlock> BlockTable::explain() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockPool.explain");
  std::vector<ExplainedBlock> columns(columns_.blocks.size());  // outside the pool's lock
  const std::vector<bool> resident = pool_->resident_blocks();
  const BlockPool::Books books(*pool_);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (columns_.blocks[i] == kHole) continue;
    columns[i] = {columns_.blocks[i],
                  i + 1 < columns.size() ? columns_.block_size : columns_.last_rows(),
                  books->holders(columns_.blocks[i]), resident[columns_.blocks[i]],
                  static_cast<std::int64_t>(i) >= columns_.first_open()};
    columns[i].is_resident = columns[i].is_resident || columns[i].is_open;
  }
  return columns;
}

}  // namespace quire
