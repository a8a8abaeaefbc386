#include "quire/kv/table/open_columns.h"

#include <algorithm>

namespace quire {

std::int32_t OpenColumns::open_to_write(const BlockPool::Books& books, std::int32_t block,
                                        std::int32_t id) const noexcept {
  OpenSlots& open = books->open_slots();
  if (!pool_.open_blocks().is_open(id)) return pool_.open_blocks().id_of(open.open(block));
  open.write(block);
  return id;
}

OpenRoom::Claim OpenColumns::claim_some(const Asked& asked) const {
  const std::int64_t slots = opens_last_for(asked.value) + columns_.new_blocks(asked.value);
  return {pool_.open_room(), asked, slots, slots};
}

std::int64_t OpenColumns::opens_last_for(std::int64_t n) const {
  if (!pool_.open_room().is_limited() || columns_.fit_in_last(n) == 0) return 0;
  return columns_.history.num_open() == 0 ||
         BlockPool::Books(pool_)->references(columns_.blocks.back()) > 1;
}

// What n more tokens take where blocks are opened one at a time: at each of them the new ones that
// are pinned then. Those that are pinned now stay until all is done (savepoint.h).
std::int64_t OpenColumns::least_opened_for(std::int64_t n) const {
  const std::int64_t num_new = columns_.new_blocks(n), columns = columns_.size();
  if (!pool_.open_room().is_limited() || num_new == 0) return 0;
  std::int64_t first = columns, most = 0;
  for (std::int64_t opened = 1; opened <= num_new; ++opened) {
    // the first is opened in one step with what the last block takes
    const std::int64_t horizon =
        opened == 1 ? 0 : (columns + opened - 1) * columns_.block_size - ColumnHistory::kTokens;
    while (columns_.history.until(first, columns_.first_pinned(), columns_.num_tokens) < horizon) {
      ++first;
    }
    most = std::max(most, opened - (first - columns));
  }
  return most;
}

void OpenColumns::open_some_from(std::int64_t first) const noexcept {
  {
    const BlockPool::Books books(pool_);
    for (std::int64_t column = first; column < columns_.size(); ++column) {
      const std::int32_t block = columns_.blocks[column];
      columns_.history.push(block == kHole ? kHole : open_to_write(books, block, block));
    }
  }
  pool_.tell_of(std::span(columns_.blocks).subspan(first));
}

void OpenColumns::seal_some_before(std::int64_t end, std::int64_t from_tokens) const noexcept {
  const std::int64_t begin = columns_.first_open();
  const auto sealed = std::span(columns_.blocks).subspan(begin, end - begin);
  pool_.seal(sealed);
  {
    const BlockPool::Books books(pool_);
    for (const std::int32_t block : sealed) {
      if (block != kHole) books->open_slots().stop_reading(block);
    }
  }
  columns_.history.seal(begin, end - begin, from_tokens);
}

void OpenColumns::advance_some_to(std::int64_t horizon) const noexcept {
  ColumnHistory& history = columns_.history;
  const std::int64_t passed = history.advance(horizon);
  const bool lets_go = history.replaced().is_there() && !history.keeps_replaced();
  if (passed == 0 && !lets_go) return;
  {
    const BlockPool::Books books(pool_);
    unpin(books, columns_.first_pinned(), columns_.first_pinned() + passed);
    if (lets_go) drop_replaced(books);
  }
  history.drop_first(passed);
  pool_.open_room().settle();
}

void OpenColumns::leave_history(const BlockPool::Books& books, bool reopens) const noexcept {
  ColumnHistory& history = columns_.history;
  if (history.replaced().is_there()) drop_replaced(books);
  if (reopens) {
    read_again(books, columns_.first_pinned(), columns_.first_open());
    return history.reopen();
  }
  unpin(books, columns_.first_pinned(), columns_.first_open());
  history.drop_first(history.num_pinned() - history.num_open());
}

void OpenColumns::pin(const BlockPool::Books& books) const noexcept {
  for (std::int64_t column = columns_.first_pinned(); column < columns_.size(); ++column) {
    const std::int32_t block = columns_.blocks[column];
    if (block != kHole) books->open_slots().pin(block, column >= columns_.first_open());
  }
  const auto& [block, num_tokens] = columns_.history.replaced();
  if (block != kHole) books->hold({&block, 1}, num_tokens % columns_.block_size);
}

void OpenColumns::unpin(const BlockPool::Books& books, std::int64_t begin,
                        std::int64_t end) const noexcept {
  for (std::int64_t column = std::max(begin, columns_.first_pinned()); column < end; ++column) {
    const std::int32_t block = columns_.blocks[column];
    if (block != kHole) books->open_slots().unpin(block, column >= columns_.first_open());
  }
}

void OpenColumns::read_again(const BlockPool::Books& books, std::int64_t begin,
                             std::int64_t end) const noexcept {
  for (std::int64_t column = begin; column < end; ++column) {
    const std::int32_t block = columns_.blocks[column];
    if (block != kHole) books->open_slots().read_again(block);
  }
}

void OpenColumns::drop_replaced(const BlockPool::Books& books) const noexcept {
  const auto [block, num_tokens] = columns_.history.replaced();
  books->drop({&block, 1}, num_tokens % columns_.block_size);
  columns_.history.forget_replaced();
}

}  // namespace quire
