// Of BlockTable: tokens that are taken back, and what it keeps so that it is what it was then.
#include <algorithm>
#include <cassert>
#include <span>

#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"

namespace quire {

void BlockTable::truncate(std::int64_t num_tokens) {
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use("BlockTable.truncate");
  if (num_tokens < 0 || num_tokens > num_tokens_) {
    raise<ValueError>("BlockTable.truncate: num_tokens", "got ", num_tokens, ", expected 0 to ",
                      num_tokens_);
  }
  if (num_tokens % block_size_ != 0 && blocks_[num_tokens / block_size_] == kHole) {
    raise<ValueError>("BlockTable.truncate: num_tokens", "got ", num_tokens, ", within column ",
                      num_tokens / block_size_, ", which is a hole, expected a multiple of ",
                      block_size_, " or a token that was not dropped");
  }
  shrink(num_tokens);
  if (num_tokens == 0) num_removed_ = 0;
}

void BlockTable::shrink(std::int64_t num_tokens) noexcept {
  if (!pool_->home().is_here()) return;
  const std::int64_t columns = std::ssize(blocks_);
  const std::int64_t kept = num_tokens / block_size_ + (num_tokens % block_size_ != 0);
  const auto dropped = std::span(blocks_).subspan(kept);
  // Of the last column that stays, as they are counted so far.
  std::int64_t rows = dropped.empty() ? last_rows() : block_size_;
  std::int64_t pinned = std::max<std::int64_t>(0, kept - first_pinned());
  const ColumnHistory::Replaced replaced = history_.replaced();
  const bool comes_back = replaced.is_there() && num_tokens <= replaced.num_tokens;
  const std::int64_t its_column = replaced.num_tokens / block_size_;
  {
    const BlockPool::Books books(*pool_);
    unpin(books, kept, columns);
    books->drop(dropped, last_rows());
    if (comes_back && its_column < kept) {  // it takes the place of the last one again
      assert(its_column + 1 == kept && first_pinned() == its_column);
      unpin(books, its_column, kept);
      books->drop({&blocks_[its_column], 1}, rows);
      blocks_[its_column] = replaced.block;
      rows = replaced.num_tokens % block_size_;
      pinned = 0;
    } else if (comes_back) {
      drop_replaced(books);
    }
    if (kept > 0 && blocks_[kept - 1] != kHole) {
      books->recount(blocks_[kept - 1], rows, num_tokens - (kept - 1) * block_size_);
    }
    const std::int64_t opened = history_.truncate(num_tokens, pinned);
    const std::int64_t open = kept - history_.num_open();
    read_again(books, open, open + opened);
  }
  blocks_.resize(kept);
  if (pool_->open_room() != nullptr && (!dropped.empty() || comes_back)) {
    pool_->open_room()->settle();
  }
  if (num_removed_ > 0 && num_tokens < num_tokens_) {
    // the next token takes the position of the first that goes
    num_removed_ = positions_[num_tokens] - num_tokens;
    positions_.resize(num_removed_ > 0 ? num_tokens : 0);
  }
  num_tokens_ = num_tokens;
}

void BlockTable::advance_to(std::int64_t horizon) noexcept {
  const std::int64_t passed = history_.advance(horizon);
  const bool lets_go = history_.replaced().is_there() && !history_.keeps_replaced();
  if (passed == 0 && !lets_go) return;
  {
    const BlockPool::Books books(*pool_);
    unpin(books, first_pinned(), first_pinned() + passed);
    if (lets_go) drop_replaced(books);
  }
  history_.drop_first(passed);
  if (pool_->open_room() != nullptr) pool_->open_room()->settle();
}

void BlockTable::pin(const BlockPool::Books& books) const noexcept {
  for (std::int64_t column = first_pinned(); column < std::ssize(blocks_); ++column) {
    if (blocks_[column] != kHole) {
      books->open_slots()->pin(blocks_[column], column >= first_open());
    }
  }
  const auto& [block, num_tokens] = history_.replaced();
  if (block != kHole) books->hold({&block, 1}, num_tokens % block_size_);
}

void BlockTable::unpin(const BlockPool::Books& books, std::int64_t begin,
                       std::int64_t end) const noexcept {
  for (std::int64_t column = std::max(begin, first_pinned()); column < end; ++column) {
    if (blocks_[column] != kHole) {
      books->open_slots()->unpin(blocks_[column], column >= first_open());
    }
  }
}

void BlockTable::read_again(const BlockPool::Books& books, std::int64_t begin,
                            std::int64_t end) const noexcept {
  for (std::int64_t column = begin; column < end; ++column) {
    if (blocks_[column] != kHole) books->open_slots()->read_again(blocks_[column]);
  }
}

void BlockTable::drop_replaced(const BlockPool::Books& books) noexcept {
  const auto [block, num_tokens] = history_.replaced();
  books->drop({&block, 1}, num_tokens % block_size_);
  history_.forget_replaced();
}

void BlockTable::leave_history(const BlockPool::Books& books, bool reopens) noexcept {
  if (history_.replaced().is_there()) drop_replaced(books);
  if (reopens) {
    read_again(books, first_pinned(), first_open());
    return history_.reopen();
  }
  unpin(books, first_pinned(), first_open());
  history_.drop_first(history_.num_pinned() - history_.num_open());
}

void BlockTable::check() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.check");
  history_.check(num_tokens_);
}

}  // namespace quire
