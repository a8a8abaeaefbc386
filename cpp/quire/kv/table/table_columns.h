// The columns of a table: its blocks, how each of them is read, and how many tokens they hold.
// Plain books, which know no pool and take no lock.
//
//   |blocks| = ceil(num_tokens / block_size); a hole, kHole, stands for a block that was given back
//   the last block, unless it is full, is no hole
//   what is read open are the last columns (column_history.h), none where the pool opens no blocks
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "quire/kv/table/column_history.h"

namespace quire {

struct TableColumns {
  // Of a pool where the last `stay` blocks of a table stay open: 0, or more where it opens blocks.
  TableColumns(std::int64_t block_size_of_pool, std::int64_t stay)
      : block_size(block_size_of_pool), history(block_size, stay) {}

  std::int64_t block_size;
  std::vector<std::int32_t> blocks;
  ColumnHistory history;
  std::int64_t num_tokens = 0;

  std::int64_t size() const { return std::ssize(blocks); }
  // Columns of so many tokens, which cannot overflow.
  std::int64_t columns_of(std::int64_t tokens) const {
    return tokens / block_size + (tokens % block_size != 0);
  }
  // Tokens in the last block, 1 to block_size; 0 where there is no block.
  std::int64_t last_rows() const {
    return blocks.empty() ? 0 : num_tokens - (size() - 1) * block_size;
  }
  // Of n more tokens: how many the last block takes, and the blocks that the others need.
  std::int64_t fit_in_last(std::int64_t n) const {
    return blocks.empty() ? 0 : std::min(n, block_size - last_rows());
  }
  std::int64_t new_blocks(std::int64_t n) const { return columns_of(n - fit_in_last(n)); }

  std::int64_t first_pinned() const { return size() - history.num_pinned(); }
  std::int64_t first_open() const { return size() - history.num_open(); }
  // As attention knows the block of a column: the last ones may be open (open_blocks.h).
  std::int32_t read_id(std::int64_t column) const {
    return column < first_open() ? blocks[column] : history.ids()[column - first_pinned()];
  }
  // Whether rows that are added to the last block go where the others are read: not where that is
  // sealed already.
  bool writes_into_last() const { return !history.opens() || history.num_open() > 0; }

  // The slots of tokens from `first` on.
  void fill_slots(std::int64_t first, std::span<std::int64_t> slots) const;

  // That all of the first `tokens` tokens are there; throws ValueError, starting with `where`.
  void require_no_hole(std::string_view where, std::int64_t tokens) const;

  // Throws InvariantError on the first equation that fails.
  void check() const;
};

}  // namespace quire
