#include "quire/kv/table/block_table.h"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <utility>

#include "quire/base/check.h"
#include "quire/base/interruption.h"

namespace quire {
namespace {

// Of n >= 0; cannot overflow.
std::int64_t ceil_div(std::int64_t n, std::int64_t d) { return n / d + (n % d != 0); }

}  // namespace

BlockTable::BlockTable(std::shared_ptr<BlockPool> pool)
    : pool_(std::move(pool)),
      block_size_(pool_->geometry().block_size),
      history_(block_size_, stays_open()) {
  pool_->home().require();
}

void BlockTable::require_in_use(std::string_view function) const {
  if (freed_) {
    raise<ValueError>(place(function, "table"), "got a freed one, expected one in use");
  }
}

std::int64_t BlockTable::last_rows() const {
  if (blocks_.empty()) return 0;
  return num_tokens_ - (static_cast<std::int64_t>(blocks_.size()) - 1) * block_size_;
}

std::int64_t BlockTable::num_tokens() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.num_tokens");
  return num_tokens_;
}

std::vector<std::int32_t> BlockTable::blocks() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.blocks");
  return blocks_;
}

std::vector<ExplainedBlock> BlockTable::explain() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockPool.explain");
  std::vector<ExplainedBlock> columns(blocks_.size());  // outside the pool's lock
  const std::vector<bool> resident = pool_->resident_blocks();
  const BlockPool::Books books(*pool_);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (blocks_[i] == kHole) continue;
    columns[i] = {blocks_[i], i + 1 < columns.size() ? block_size_ : last_rows(),
                  books->holders(blocks_[i]), resident[blocks_[i]],
                  static_cast<std::int64_t>(i) >= first_open()};
    columns[i].is_resident = columns[i].is_resident || columns[i].is_open;
  }
  return columns;
}

bool BlockTable::is_freed() const {
  const std::shared_lock lock(mutex_);
  return freed_;
}

std::int64_t BlockTable::fit_in_last(std::int64_t n) const {
  return blocks_.empty() ? 0 : std::min(n, block_size_ - last_rows());
}

std::int64_t BlockTable::new_blocks(std::int64_t n) const {
  return ceil_div(n - fit_in_last(n), block_size_);
}

// Told before memory for n slots, or for their blocks, is asked for: a pool never has more than all
// its blocks free.
void BlockTable::require_within_pool(const Asked& asked) const {
  const std::int64_t blocks = new_blocks(asked.value);
  if (blocks > pool_->geometry().num_blocks) {
    BlockPool::Books(*pool_).require_free(blocks, asked);
  }
}

std::vector<std::int64_t> BlockTable::extend(std::int64_t n) {
  const Asked asked{"BlockTable.extend", "n", n};
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use(asked.function);
  if (n < 0) raise<ValueError>("BlockTable.extend: n", "got ", n, ", expected >= 0");
  require_within_pool(asked);
  std::vector<std::int64_t> slots(n);
  grow(asked, slots);
  return slots;
}

void BlockTable::extend(std::span<std::int64_t> slots) {
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use("BlockTable.extend");
  grow({"BlockTable.extend", "slots", std::ssize(slots)}, slots);
}

void BlockTable::grow(const Asked& asked, std::span<std::int64_t> slots) {
  const std::int64_t num_old = std::ssize(blocks_);
  require_within_pool(asked);
  const OpenRoom::Claim claim = claim_to_grow(asked);
  take_blocks(asked);
  if (pool_->open_blocks() != nullptr && !slots.empty()) {
    open_columns(num_old);
    seal_before(num_old - stays_open(), num_tokens_);
  }
  const std::int64_t num_tokens = num_tokens_;
  count_tokens(slots);
  try {
    confirm_uninterrupted();  // as blocks were brought into memory
  } catch (...) {
    shrink(num_tokens);
    throw;
  }
  if (pool_->open_blocks() != nullptr) advance_to(num_tokens_ - ColumnHistory::kTokens);
}

void BlockTable::take_blocks(const Asked& asked) {
  const std::int64_t n = asked.value;
  const std::int64_t rows = last_rows();
  const std::int64_t into_last = fit_in_last(n);
  const std::int64_t num_new = new_blocks(n);
  const std::size_t num_old = blocks_.size();
  const std::int32_t last = blocks_.empty() ? -1 : blocks_.back();
  require_within_pool(asked);
  pool_->storage().memory().require_written(asked.function);
  // Outside the pool's lock, and before anything is taken.
  if (num_removed_ > 0) positions_.reserve(num_tokens_ + n);
  const OpenBlocks* const open_blocks = pool_->open_blocks();
  if (open_blocks != nullptr) history_.reserve(num_new + 1);
  const bool is_open = history_.num_open() > 0;  // the last
  const std::int32_t last_id = is_open ? history_.ids().back() : last;
  const bool reopens = open_blocks != nullptr && into_last > 0 && !is_open;
  blocks_.resize(num_old + num_new);

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
    books->give_to_table(std::span(blocks_).subspan(num_old),
                         n - into_last - (num_new - 1) * block_size_);
    if (copies) {
      books->give_to_table({&copy, 1}, rows + into_last);
    } else if (into_last > 0) {
      books->recount(last, rows, rows + into_last);
    }
    if (open_blocks != nullptr && into_last > 0) {
      new_id = open_to_write(books, copy, copies ? copy : last_id);
    }
  } catch (...) {
    blocks_.resize(num_old);
    throw;
  }

  if (open_blocks == nullptr) {
    pool_->keep_resident(std::span(blocks_).subspan(num_old - (into_last > 0 ? 1 : 0)));
    if (copy != last) pool_->keep_resident({&copy, 1});
  } else if (reopens) {
    pool_->keep_resident({&last, 1});  // whose rows are copied to where they are open
  }
  if (copy != last) {
    // Our reference to the shared block stands until its bytes are copied: while others hold it too
    // it stays shared, and nobody writes it. A second table that wants to copies as well.
    if (open_blocks != nullptr) {
      open_blocks->copy_rows({last_id, 0}, {new_id, 0}, rows);
    } else {
      pool_->storage().copy_block(last, copy);
    }
    pool_->settle({&last, 1});
    blocks_[num_old - 1] = copy;
    const BlockPool::Books books(*pool_);
    is_shared ? books->note_copy_on_write(last, copy) : books->note_copy(last, copy);
    if (is_open) books->open_slots()->unpin(last, true);
    if (reopens) {
      history_.replace({last, num_tokens_});
    } else {
      books->drop({&last, 1}, rows);
    }
  } else if (open_blocks != nullptr && into_last > 0) {
    pool_->tell_of({&last, 1});  // whose tile may be elsewhere, and counts no more
  }
  if (open_blocks == nullptr || into_last == 0) return;
  if (is_open) history_.pop();
  history_.push(new_id);
}

void BlockTable::count_tokens(std::span<std::int64_t> slots) {
  const auto n = static_cast<std::int64_t>(slots.size());
  fill_slots(num_tokens_, slots);
  for (std::int64_t i = 0; num_removed_ > 0 && i < n; ++i) {
    positions_.push_back(num_tokens_ + num_removed_ + i);
  }
  num_tokens_ += n;
}

void BlockTable::fill_slots(std::int64_t first, std::span<std::int64_t> slots) const {
  std::int64_t column = first / block_size_;
  std::int64_t row = first % block_size_;
  for (std::int64_t& slot : slots) {
    slot = read_id(column) * block_size_ + row;
    if (++row == block_size_) {
      row = 0;
      ++column;
    }
  }
}

std::unique_ptr<BlockTable> BlockTable::fork() const {
  const BlockPool::Delivery delivery(*pool_);
  auto child = std::make_unique<BlockTable>(pool_);
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.fork");
  std::vector<std::int32_t> blocks = blocks_;
  child->positions_ = positions_;
  child->history_ = history_;
  {
    const BlockPool::Books books(*pool_);
    books->hold(blocks, last_rows());
    pin(books);
  }
  child->blocks_ = std::move(blocks);
  child->num_tokens_ = num_tokens_;
  child->num_removed_ = num_removed_;
  return child;
}

void BlockTable::free() {
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use("BlockTable.free");
  shrink(0);
  blocks_.shrink_to_fit();
  lease_.reset();
  freed_ = true;
}

void BlockTable::close() noexcept try {
  if (!pool_->home().is_here()) return;
  const Uninterrupted whole;
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  shrink(0);
  lease_.reset();
  freed_ = true;
} catch (const Error&) {
  return;  // a call uses the table that this one was made inside of
}

// In a forked child what another thread was changing is left as it is.
BlockTable::~BlockTable() {
  close();
  if (pool_->home().is_here()) return;
  struct Left {
    std::vector<std::int32_t> blocks;
    ColumnHistory history;
    std::vector<std::int64_t> positions;
    std::shared_ptr<void> lease;
  };
  new Left{std::move(blocks_), std::move(history_), std::move(positions_), std::move(lease_)};
}  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): nothing may destroy it

}  // namespace quire
