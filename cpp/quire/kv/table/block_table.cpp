#include "quire/kv/table/block_table.h"

#include <algorithm>
#include <cassert>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "quire/base/check.h"

namespace quire {

BlockTable::BlockTable(std::shared_ptr<BlockPool> pool)
    : pool_(std::move(pool)), columns_(pool_->geometry().block_size, pool_->geometry().num_open()) {
  pool_->home().require();
}

BlockTable::BlockTable(std::shared_ptr<BlockPool> pool, TableLayout layout)
    : BlockTable(std::move(pool)) {
  constexpr std::string_view function = "BlockTable";
  if (const std::string flaw = layout.flaw(columns_.block_size); !flaw.empty()) {
    raise<ValueError>(place(function, "layout"), "got ", flaw);
  }
  if (layout.num_open > 0 && !columns_.history.opens()) {
    raise<ValueError>(place(function, "layout"), "got ", counted(layout.num_open, "open column"),
                      ", expected none in a pool without open blocks");
  }
  const Asked asked{function, "layout", layout.num_tokens};
  const std::int64_t num_blocks = layout.num_blocks();
  if (num_blocks > pool_->geometry().num_blocks) {
    BlockPool::Books(*pool_).require_free(num_blocks, asked);
  }
  const BlockPool::Delivery delivery(*pool_);
  // Outside the pool's lock, and before anything is taken.
  std::vector<std::int32_t> taken(num_blocks);
  std::vector<std::int32_t> blocks(layout.num_columns(columns_.block_size), kHole);
  columns_.history.reserve(layout.num_open);
  TokenPositions positions;
  positions.begin(layout.num_tokens, layout.next_position, std::move(layout.positions));
  const std::int64_t num_opened = layout.open_blocks(columns_.block_size);
  const OpenRoom::Claim claim(pool_->open_room(), asked, num_opened, num_opened);
  const std::int64_t last_rows =
      layout.stored_tokens(columns_.block_size) - (num_blocks - 1) * columns_.block_size;
  {
    const BlockPool::Books books(*pool_);
    books.require_free(num_blocks, asked);
    books->give_to_table(taken, last_rows);
  }
  // Open ones are the last, and have no tile yet.
  pool_->keep_resident(std::span(taken).first(num_blocks - num_opened));
  auto next = taken.begin();
  for (const auto& [begin, end] : layout.column_ranges) {
    std::copy_n(next, end - begin, blocks.begin() + begin);
    next += end - begin;
  }
  columns_.blocks = std::move(blocks);
  columns_.num_tokens = layout.num_tokens;
  columns_.history.begin(layout.num_tokens);
  positions_ = std::move(positions);
  open_columns().open_from(columns_.size() - layout.num_open);
  assert(holds([&] { check_changed(); }));
}

void BlockTable::require_in_use(std::string_view function) const {
  if (freed_) {
    raise<ValueError>(place(function, "table"), "got a freed one, expected one in use");
  }
}

std::int64_t BlockTable::num_tokens() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.num_tokens");
  return columns_.num_tokens;
}

std::vector<std::int32_t> BlockTable::blocks() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.blocks");
  return columns_.blocks;
}

bool BlockTable::is_freed() const {
  const std::shared_lock lock(mutex_);
  return freed_;
}

void BlockTable::free() {
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use("BlockTable.free");
  shrink(0);
  columns_.blocks.shrink_to_fit();
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
    TableColumns columns;
    TokenPositions positions;
    std::shared_ptr<void> lease;
  };
  new Left{std::move(columns_), std::move(positions_), std::move(lease_)};
}  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): nothing may destroy it

void BlockTable::check() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.check");
  check_books(columns_.size());
  positions_.check(columns_.num_tokens);
}

void BlockTable::check_books(std::int64_t most_columns) const {
  columns_.check();
  if (columns_.num_tokens <= kSmallBooks) positions_.check(columns_.num_tokens);
  const auto fail = [](const char* what, std::int64_t got, std::int64_t column) {
    raise<InvariantError>(place("BlockTable.check", what), "got ", got, " at column ", column,
                          ", expected what the table reads");
  };
  const BlockPool::Books books(*pool_);
  for (std::int64_t column = std::max<std::int64_t>(0, columns_.size() - most_columns);
       column < columns_.size(); ++column) {
    const std::int32_t block = columns_.blocks[column];
    if (block == kHole) continue;
    const bool is_last = column + 1 == columns_.size();
    const BlockHolders holders = books->holders(block);
    if (holders.tables < 1) fail("tables that hold a block", holders.tables, column);
    if (holders.rows < (is_last ? columns_.last_rows() : columns_.block_size)) {
      fail("rows of a block", holders.rows, column);
    }
    if (column < columns_.first_pinned()) continue;
    const std::int32_t id = columns_.history.ids()[column - columns_.first_pinned()];
    if (pool_->open_blocks().id_of(books->open_slots().slot(block)) != id) {
      fail("open id", id, column);
    }
  }
}

}  // namespace quire
