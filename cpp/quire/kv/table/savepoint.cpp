#include "quire/kv/table/savepoint.h"

#include <algorithm>
#include <span>
#include <utility>

#include "quire/kv/table/open_columns.h"

namespace quire {

Savepoint::Savepoint(BlockPool& pool, const TableColumns& columns)
    : pool_(pool),
      before_(columns),
      first_(std::max<std::int64_t>(0, std::min(columns.first_pinned(), columns.size() - 1))) {}

Savepoint::~Savepoint() {
  if (holds_ && pool_.home().is_here()) let_go_of(before_);
}

void Savepoint::hold() noexcept {
  const BlockPool::Books books(pool_);
  books->hold(std::span(before_.blocks).subspan(first_), before_.last_rows());
  OpenColumns(pool_, before_).pin(books);
  holds_ = true;
}

void Savepoint::restore(TableColumns& columns) noexcept {
  if (!pool_.home().is_here()) return;
  let_go_of(columns);
  columns = std::move(before_);
  holds_ = false;
}

void Savepoint::let_go_of(TableColumns& columns) const noexcept {
  {
    const OpenColumns open(pool_, columns);
    const BlockPool::Books books(pool_);
    open.unpin(books, first_, columns.size());
    if (columns.history.replaced().is_there()) open.drop_replaced(books);
    books->drop(std::span(columns.blocks).subspan(first_), columns.last_rows());
  }
  pool_.open_room().settle();
}

}  // namespace quire
