// What a table goes back to, to the letter, where it fails while it grows.
//
// A table that grows lets go of blocks that it would need again to be what it was: of a shared last
// block, which is copied to be written; and, in a pool with open blocks, of slots that are further
// back than truncate goes (column_history.h). So somebody else holds them until all is done.
#pragma once

#include <cstdint>

#include "quire/kv/pool/block_pool.h"
#include "quire/kv/table/table_columns.h"

namespace quire {

// A last block that was shared and is copied, which the table holds beside its copy until it is
// done. Plain books.
struct CopiedBlock {
  std::int32_t block = kHole;
  std::int64_t rows = 0;    // that the table counted
  std::int32_t id = kHole;  // as which it read the block, and whether that was open
  bool was_open = false;

  bool is_there() const { return block != kHole; }
};

// Of a table that grows in parts. Lives as long as its lock is held.
class Savepoint {
 public:
  // Remembers what the columns are. Takes nothing yet, so that whether a block is shared can still
  // be seen.
  Savepoint(BlockPool& pool, const TableColumns& columns);
  // Lets go of what it holds.
  ~Savepoint();
  Savepoint(const Savepoint&) = delete;
  Savepoint& operator=(const Savepoint&) = delete;

  // Holds what the table may let go of, from now on: before it does so.
  void hold() noexcept;

  // Columns that have grown are what they were. What was opened for them is closed, and their
  // blocks are given back.
  void restore(TableColumns& columns) noexcept;

 private:
  void let_go_of(TableColumns& columns) const noexcept;

  BlockPool& pool_;
  TableColumns before_;
  const std::int64_t first_;  // column that the table may let go of, or write
  bool holds_ = false;
};

}  // namespace quire
