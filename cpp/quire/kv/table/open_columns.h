// How the columns of a table come to be read open, and cease to be: what a table does to its
// columns and to the pool's books of open slots, both at once (column_history.h, open_slots.h).
//
// In a pool that opens no blocks all of this is there and has nothing to do: rows are written where
// they stay, and no column is ever pinned. Nothing here throws but claims.
#pragma once

#include <cstdint>
#include <span>

#include "quire/kv/pool/block_pool.h"
#include "quire/kv/table/table_columns.h"

namespace quire {

// Lives as long as one change of a table, whose lock is held.
class OpenColumns {
 public:
  OpenColumns(BlockPool& pool, TableColumns& columns) : pool_(pool), columns_(columns) {}

  // So many blocks, about, are open at once when rows come with their tokens, beside those that
  // stay.
  static constexpr std::int64_t kBlocksOpened = 8;

  // Columns that stay open when a table goes on.
  std::int64_t stay() const { return pool_.geometry().num_open(); }

  // Room for what so many more tokens open, all at once. In parts: 1 where the last block is among
  // what is opened, else 0, and columns that nobody else reads open, at least. All 0 without a
  // limit.
  OpenRoom::Claim claim_to_grow(const Asked& asked) const {
    if (!pool_.open_room().is_limited()) return {};
    return claim_some(asked);
  }
  std::int64_t opens_last_for(std::int64_t n) const;
  std::int64_t least_opened_for(std::int64_t n) const;

  // Makes a block that is the table's alone, and which it reads as `id`, one that it may write, and
  // returns the id that it has then. Rows are moved there afterwards.
  std::int32_t to_write(const BlockPool::Books& books, std::int32_t block,
                        std::int32_t id) const noexcept {
    return opens() ? open_to_write(books, block, id) : block;
  }
  // The same of all columns from `first` on, which are holes or the table's alone, and which have
  // just been added: the table reads them so.
  void open_from(std::int64_t first) const noexcept {
    if (opens()) open_some_from(first);
  }
  // The last column is read as `id` from now on, which to_write has returned.
  void read_last_as(std::int32_t id, bool was_open) const noexcept {
    if (!opens()) return;
    if (was_open) columns_.history.pop();
    columns_.history.push(id);
  }
  // Keeps the tiles of blocks in memory, that are about to be written there.
  void keep_written(std::span<const std::int32_t> blocks) const noexcept {
    if (!opens()) pool_.keep_resident(blocks);
  }

  // Seals columns below `end`, and reads them sealed from now on, as the table has grown from so
  // many tokens.
  void seal_before(std::int64_t end, std::int64_t from_tokens) const noexcept {
    if (end > columns_.first_open()) seal_some_before(end, from_tokens);
  }
  // Lets go of what is kept for a table of fewer tokens than these alone.
  void advance_to(std::int64_t horizon) const noexcept {
    if (opens()) advance_some_to(horizon);
  }
  // Reads all pinned columns open, or unpins those that it does not; and forgets what was replaced.
  void leave_history(const BlockPool::Books& books, bool reopens) const noexcept;

  // The pins of columns: of a second table, which holds what was replaced as well; and of those in
  // [begin, end), before their blocks are dropped.
  void pin(const BlockPool::Books& books) const noexcept;
  void unpin(const BlockPool::Books& books, std::int64_t begin, std::int64_t end) const noexcept;
  // Reads columns in [begin, end) open again, which are pinned.
  void read_again(const BlockPool::Books& books, std::int64_t begin,
                  std::int64_t end) const noexcept;
  void drop_replaced(const BlockPool::Books& books) const noexcept;

 private:
  // The pool's kind, asked here alone: what is called beyond it is of pools that open blocks.
  bool opens() const { return columns_.history.opens(); }
  OpenRoom::Claim claim_some(const Asked& asked) const;
  std::int32_t open_to_write(const BlockPool::Books& books, std::int32_t block,
                             std::int32_t id) const noexcept;
  void open_some_from(std::int64_t first) const noexcept;
  void seal_some_before(std::int64_t end, std::int64_t from_tokens) const noexcept;
  void advance_some_to(std::int64_t horizon) const noexcept;

  BlockPool& pool_;
  TableColumns& columns_;
};

}  // namespace quire
