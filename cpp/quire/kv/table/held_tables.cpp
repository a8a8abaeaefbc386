#include "quire/kv/table/held_tables.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"

namespace quire {

HeldTables::HeldTables(std::string_view function, std::span<const BlockTable* const> tables)
    : tables_(tables.begin(), tables.end()) {
  // One order for everybody, so that two who hold tables never wait for each other.
  std::vector<const BlockTable*> ordered = tables_;
  std::sort(ordered.begin(), ordered.end(), std::less<>());
  ordered.erase(std::unique(ordered.begin(), ordered.end()), ordered.end());
  locks_.reserve(ordered.size());
  for (const BlockTable* table : ordered) locks_.emplace_back(table->mutex_);

  for (std::int64_t i = 0; i < size(); ++i) {
    if (tables_[i]->freed_) {
      raise<ValueError>(place(function, "tables"), "got a freed table at index ", i,
                        ", expected tables in use");
    }
    if (tables_[i]->pool_ != tables_[0]->pool_) {
      raise<ValueError>(place(function, "tables"), "got a table of another pool at index ", i,
                        ", expected tables of one pool");
    }
    if (tables_[i]->columns_.num_tokens > std::numeric_limits<std::int32_t>::max()) {
      raise<ValueError>(place(function, "tables"), "got ", tables_[i]->columns_.num_tokens,
                        " tokens at index ", i, ", expected lengths that fit in an int32");
    }
    has_positions_ = has_positions_ || tables_[i]->positions_.are_listed();
    max_tokens_ = std::max(max_tokens_, tables_[i]->columns_.num_tokens);
    max_blocks_ = std::max(max_blocks_, tables_[i]->columns_.size());
  }
}

const BlockPool* HeldTables::pool() const {
  return tables_.empty() ? nullptr : tables_[0]->pool_.get();
}

TableLayout HeldTables::layout(std::int64_t index) const {
  const TableColumns& columns = tables_[index]->columns_;
  const TokenPositions& positions = tables_[index]->positions_;
  TableLayout layout;
  layout.num_tokens = columns.num_tokens;
  layout.next_position = positions.next(columns.num_tokens);
  layout.num_open = columns.history.num_open();
  for (std::int64_t column = 0; column < columns.size(); ++column) {
    if (columns.blocks[column] == kHole) continue;
    auto& ranges = layout.column_ranges;
    if (ranges.empty() || ranges.back().end != column) ranges.push_back({column, column});
    ++ranges.back().end;
  }
  // They grow from 0: the last one tells.
  const auto listed = positions.listed();
  if (!listed.empty() && listed.back() >= columns.num_tokens) {
    layout.positions.assign(listed.begin(), listed.end());
  }
  return layout;
}

void HeldTables::pack_positions(std::int64_t* positions) const {
  for (const BlockTable* table : tables_) {
    for (std::int64_t token = 0; token < max_tokens_; ++token) {
      *positions++ = token < table->columns_.num_tokens ? table->positions_.of(token) : 0;
    }
  }
}

template <class Id>
void HeldTables::pack(Id pad, Id* block_tables, Id* seq_lens) const {
  for (std::int64_t i = 0; i < size(); ++i) {
    const TableColumns& columns = tables_[i]->columns_;
    Id* row = block_tables + i * max_blocks_;
    std::fill(std::copy(columns.blocks.begin(), columns.blocks.end(), row), row + max_blocks_, pad);
    const auto open_ids = columns.history.ids().last(columns.history.num_open());
    std::copy(open_ids.begin(), open_ids.end(), row + columns.first_open());
    seq_lens[i] = static_cast<Id>(columns.num_tokens);
  }
}
template void HeldTables::pack(std::int32_t, std::int32_t*, std::int32_t*) const;
template void HeldTables::pack(std::int64_t, std::int64_t*, std::int64_t*) const;

}  // namespace quire
