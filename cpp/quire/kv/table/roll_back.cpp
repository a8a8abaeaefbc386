// Of BlockTable: tokens that are taken back, so that it is what it was before them.
#include <algorithm>
#include <cassert>
#include <mutex>
#include <span>

#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"

namespace quire {

void BlockTable::truncate(std::int64_t num_tokens) {
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use("BlockTable.truncate");
  if (num_tokens < 0 || num_tokens > columns_.num_tokens) {
    raise<ValueError>("BlockTable.truncate: num_tokens", "got ", num_tokens, ", expected 0 to ",
                      columns_.num_tokens);
  }
  if (num_tokens % columns_.block_size != 0 &&
      columns_.blocks[num_tokens / columns_.block_size] == kHole) {
    raise<ValueError>("BlockTable.truncate: num_tokens", "got ", num_tokens, ", within column ",
                      num_tokens / columns_.block_size,
                      ", which is a hole, expected a multiple of ", columns_.block_size,
                      " or a token that was not dropped");
  }
  shrink(num_tokens);
  if (num_tokens == 0) positions_.restart();
}

void BlockTable::shrink(std::int64_t num_tokens) noexcept {
  if (!pool_->home().is_here()) return;
  const OpenColumns open = open_columns();
  const std::int64_t columns = columns_.size();
  const std::int64_t kept = columns_.columns_of(num_tokens);
  const auto dropped = std::span(columns_.blocks).subspan(kept);
  // Of the last column that stays, as they are counted so far.
  std::int64_t rows = dropped.empty() ? columns_.last_rows() : columns_.block_size;
  std::int64_t pinned = std::max<std::int64_t>(0, kept - columns_.first_pinned());
  const ColumnHistory::Replaced replaced = columns_.history.replaced();
  const bool comes_back = replaced.is_there() && num_tokens <= replaced.num_tokens;
  const std::int64_t its_column = replaced.num_tokens / columns_.block_size;
  {
    const BlockPool::Books books(*pool_);
    open.unpin(books, kept, columns);
    books->drop(dropped, columns_.last_rows());
    if (comes_back && its_column < kept) {  // it takes the place of the last one again
      assert(its_column + 1 == kept && columns_.first_pinned() == its_column);
      open.unpin(books, its_column, kept);
      books->drop({&columns_.blocks[its_column], 1}, rows);
      columns_.blocks[its_column] = replaced.block;
      rows = replaced.num_tokens % columns_.block_size;
      pinned = 0;
    } else if (comes_back) {
      open.drop_replaced(books);
    }
    if (kept > 0 && columns_.blocks[kept - 1] != kHole) {
      books->recount(columns_.blocks[kept - 1], rows,
                     num_tokens - (kept - 1) * columns_.block_size);
    }
    const std::int64_t opened = columns_.history.truncate(num_tokens, pinned);
    const std::int64_t first_open = kept - columns_.history.num_open();
    open.read_again(books, first_open, first_open + opened);
  }
  columns_.blocks.resize(kept);
  if (!dropped.empty() || comes_back) pool_->open_room().settle();
  positions_.truncate(columns_.num_tokens, num_tokens);
  columns_.num_tokens = num_tokens;
  assert(holds([&] { check_changed(); }));
}

void BlockTable::put_back(const CopiedBlock& copied) noexcept {
  if (!copied.is_there() || !pool_->home().is_here()) return;
  {
    const BlockPool::Books books(*pool_);
    std::int32_t& last = columns_.blocks.back();
    if (copied.was_open) {
      books->open_slots().unpin(last, true);
      columns_.history.ids().back() = copied.id;
    }
    books->drop({&last, 1}, copied.rows);
    last = copied.block;
  }
  pool_->open_room().settle();
  assert(holds([&] { check_changed(); }));
}

void BlockTable::let_go_of_some(const CopiedBlock& copied) noexcept {
  if (!pool_->home().is_here()) return;
  {
    const BlockPool::Books books(*pool_);
    if (copied.was_open) books->open_slots().unpin(copied.block, true);
    books->drop({&copied.block, 1}, copied.rows);
  }
  if (copied.was_open) pool_->open_room().settle();
}

}  // namespace quire
