// A table, and what it must be.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "kv/table/open_sequence.h"
#include "kv/table/replaced_block.h"
#include "quire/kv/table/block_table.h"

namespace quire::testing {

struct ModelSequence {
  std::unique_ptr<BlockTable> table;
  std::vector<std::uint32_t> tokens;
  std::set<std::int64_t> holes;  // columns
  std::vector<std::int64_t> positions;
  std::int64_t next_position = 0;
  std::optional<OpenSequence> opened = {};  // in a pool with open blocks
  ReplacedBlock replaced = {};

  bool replaces(std::int64_t n) const { return opened && ReplacedBlock::is_made(*opened, n); }
};

}  // namespace quire::testing
