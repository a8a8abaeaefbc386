// Of BlockTable: room for more tokens.
#include <cassert>
#include <mutex>
#include <span>
#include <vector>

#include "quire/base/check.h"
#include "quire/base/interruption.h"
#include "quire/kv/table/block_table.h"

namespace quire {

// Told before memory for n slots, or for their blocks, is asked for: a pool never has more than all
// its blocks free.
void BlockTable::require_within_pool(const Asked& asked) const {
  const std::int64_t blocks = columns_.new_blocks(asked.value);
  if (blocks > pool_->geometry().num_blocks) {
    BlockPool::Books(*pool_).require_free(blocks, asked);
  }
}

std::vector<std::int64_t> BlockTable::extend(std::int64_t n) {
  return extend(Asked{"BlockTable.extend", "n", n});
}

std::vector<std::int64_t> BlockTable::extend(const Asked& asked) {
  const std::int64_t n = asked.value;
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use(asked.function);
  if (n < 0) {
    raise<ValueError>(place(asked.function, asked.argument), "got ", asked.text(),
                      ", expected >= 0");
  }
  require_within_pool(asked);
  std::vector<std::int64_t> slots(n);
  let_go_of(grow(asked, slots));
  return slots;
}

void BlockTable::extend(std::span<std::int64_t> slots) {
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use("BlockTable.extend");
  let_go_of(grow({"BlockTable.extend", "slots", std::ssize(slots)}, slots));
}

CopiedBlock BlockTable::grow(const Asked& asked, std::span<std::int64_t> slots) {
  const std::int64_t num_old = columns_.size();
  const OpenColumns open = open_columns();
  require_within_pool(asked);
  const OpenRoom::Claim claim = open.claim_to_grow(asked);
  const CopiedBlock copied = take_blocks(asked);
  if (!slots.empty()) {
    open.open_from(num_old);
    open.seal_before(num_old - open.stay(), columns_.num_tokens);
  }
  const std::int64_t num_tokens = columns_.num_tokens;
  count_tokens(slots);
  try {
    confirm_uninterrupted();  // as blocks were brought into memory
  } catch (...) {
    shrink(num_tokens);
    put_back(copied);
    throw;
  }
  open.advance_to(columns_.num_tokens - ColumnHistory::kTokens);
  assert(holds([&] { check_changed(); }));
  return copied;
}

// What is taken is taken under the pool's lock, all of it or nothing; rows are copied after it. A
// copy is taken first, and so given back last: whoever fails leaves the free blocks in their order.
CopiedBlock BlockTable::take_blocks(const Asked& asked) {
  const std::int64_t n = asked.value;
  const std::int64_t rows = columns_.last_rows();
  const std::int64_t into_last = columns_.fit_in_last(n);
  const std::int64_t num_new = columns_.new_blocks(n);
  const std::size_t num_old = columns_.blocks.size();
  const std::int32_t last = num_old == 0 ? -1 : columns_.blocks.back();
  const OpenColumns open = open_columns();
  pool_->storage().memory().require_written(asked.function);
  // Outside the pool's lock, and before anything is taken.
  positions_.reserve(columns_.num_tokens, n);
  columns_.history.reserve(num_new + 1);
  const bool is_open = columns_.history.num_open() > 0;  // the last
  const std::int32_t last_id = is_open ? columns_.history.ids().back() : last;
  const bool reopens = into_last > 0 && !columns_.writes_into_last();
  columns_.blocks.resize(num_old + num_new);

  std::int32_t copy = last, new_id = last;
  bool is_shared = false;
  try {
    const BlockPool::Books books(*pool_);
    is_shared = into_last > 0 && books->references(last) > 1;
    bool copies = is_shared || reopens;
    if (is_shared && !reopens && !books.can_free(num_new + 1) && books.can_free(num_new) &&
        books->is_shared_with_caches_alone(last)) {
      books->forget(last);
      copies = false;
    }
    books.require_free(num_new + copies, asked);
    if (copies) {
      books->give_to_table({&copy, 1}, rows + into_last);
    } else if (into_last > 0) {
      books->recount(last, rows, rows + into_last);
    }
    books->give_to_table(std::span(columns_.blocks).subspan(num_old),
                         n - into_last - (num_new - 1) * columns_.block_size);
    if (into_last > 0) new_id = open.to_write(books, copy, copies ? copy : last_id);
  } catch (...) {
    columns_.blocks.resize(num_old);
    throw;
  }

  CopiedBlock copied;
  open.keep_written(std::span(columns_.blocks).subspan(num_old - (into_last > 0 ? 1 : 0)));
  if (copy != last) {
    open.keep_written({&copy, 1});
    if (reopens) pool_->keep_resident({&last, 1});  // whose rows are copied to where they are open
    // Our reference to the shared block stands until its bytes are copied: while others hold it too
    // it stays shared, and nobody writes it. A second table that wants to copies as well.
    pool_->copy_block(last_id, new_id, rows);
    pool_->settle({&last, 1});
    columns_.blocks[num_old - 1] = copy;
    const BlockPool::Books books(*pool_);
    is_shared ? books->note_copy_on_write(last, copy) : books->note_copy(last, copy);
    if (reopens) {
      columns_.history.replace({last, columns_.num_tokens});
    } else {
      copied = {last, rows, last_id, is_open};
    }
  } else if (into_last > 0) {
    pool_->tell_of({&last, 1});  // whose tile may be elsewhere, and counts no more
  }
  if (into_last > 0) open.read_last_as(new_id, is_open);
  return copied;
}

void BlockTable::count_tokens(std::span<std::int64_t> slots) {
  columns_.fill_slots(columns_.num_tokens, slots);
  positions_.grow(columns_.num_tokens, std::ssize(slots));
  columns_.num_tokens += std::ssize(slots);
}

}  // namespace quire
