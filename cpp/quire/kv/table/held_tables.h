// Tables held still for as long as this lives: nobody extends, truncates or frees one, so that
// their blocks can be read without a lock of the pool. It holds their locks, shared, which costs
// the same whatever the length of a table; a reference to each block instead would cost as much as
// a fork.
//
// The caller keeps the tables alive, and before this is gone must not call a method of one, nor
// wait for a thread that does.
#pragma once

#include <cstdint>
#include <shared_mutex>
#include <span>
#include <string_view>
#include <vector>

#include "quire/kv/ledger/pool_mutex.h"
#include "quire/kv/table/table_layout.h"

namespace quire {

class BlockPool;
class BlockTable;

class HeldTables {
 public:
  // Throws ValueError, starting "function: tables", for a freed table or tables of two pools. A
  // table may be named twice.
  HeldTables(std::string_view function, std::span<const BlockTable* const> tables);

  // The tables' pool; null where there are no tables.
  const BlockPool* pool() const;

  std::int64_t size() const { return static_cast<std::int64_t>(tables_.size()); }

  // Blocks of the longest table.
  std::int64_t max_blocks() const { return max_blocks_; }

  // Whether a table has tokens at other positions than their index, and the most tokens of one.
  bool has_positions() const { return has_positions_; }
  std::int64_t max_tokens() const { return max_tokens_; }

  // What the table at `index` has of its sequence.
  TableLayout layout(std::int64_t index) const;

  // Writes positions [size(), max_tokens()], 0 after the end of each table.
  void pack_positions(std::int64_t* positions) const;

  // Writes block_tables [size(), max_blocks()], `pad` after the end of each, and seq_lens [size()],
  // as std::int32_t or std::int64_t. Open blocks have the ids of open_blocks.h.
  template <class Id>
  void pack(Id pad, Id* block_tables, Id* seq_lens) const;

 private:
  std::vector<const BlockTable*> tables_;
  std::vector<std::shared_lock<CallMutex>> locks_;
  std::int64_t max_blocks_ = 0;
  std::int64_t max_tokens_ = 0;
  bool has_positions_ = false;
};

}  // namespace quire
