// What a PrefixCacheMachine knows of a pool, and of each table in it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kv/prefix/prefix_rows.h"
#include "kv/table/open_rows.h"
#include "kv/table/replaced_block.h"
#include "quire/kv/table/block_table.h"

namespace quire::testing {

struct CacheShape {
  std::int64_t num_blocks;
  std::int64_t block_size;
  std::int64_t max_blocks;
  std::optional<OpenKind> open = std::nullopt;  // or float32
};

struct CachedSequence {
  std::string space;
  Ids ids;
  std::shared_ptr<BlockTable> table;
  std::vector<std::int32_t> blocks;
  std::optional<OpenSequence> opened = {};  // in a pool with open blocks; for what is open alone
  ReplacedBlock replaced = {};

  bool has_holes() const { return std::count(blocks.begin(), blocks.end(), kHole) > 0; }
  bool is_open(std::int64_t column) const { return opened->is_open(column); }
};

// Whether its table has the rows of its ids, but for those in holes.
inline ::testing::AssertionResult holds(const CachedSequence& sequence) {
  return sequence.has_holes() ? holds_ids_but_holes(*sequence.table, sequence.ids, sequence.space)
                              : holds_ids(*sequence.table, sequence.ids, sequence.space);
}

}  // namespace quire::testing
