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
    if (tables_[i]->num_tokens_ > std::numeric_limits<std::int32_t>::max()) {
      raise<ValueError>(place(function, "tables"), "got ", tables_[i]->num_tokens_,
                        " tokens at index ", i, ", expected lengths that fit in an int32");
    }
    has_positions_ = has_positions_ || !tables_[i]->positions_.empty();
    max_tokens_ = std::max(max_tokens_, tables_[i]->num_tokens_);
    max_blocks_ = std::max(max_blocks_, static_cast<std::int64_t>(tables_[i]->blocks_.size()));
  }
}

const BlockPool* HeldTables::pool() const {
  return tables_.empty() ? nullptr : tables_[0]->pool_.get();
}

TableLayout HeldTables::layout(std::int64_t index) const {
  const BlockTable& table = *tables_[index];
  TableLayout layout;
  layout.num_tokens = table.num_tokens_;
  layout.next_position = table.num_tokens_ + table.num_removed_;
  layout.num_open = table.history_.num_open();
  for (std::int64_t column = 0; column < std::ssize(table.blocks_); ++column) {
    if (table.blocks_[column] == kHole) continue;
    auto& ranges = layout.column_ranges;
    if (ranges.empty() || ranges.back().end != column) ranges.push_back({column, column});
    ++ranges.back().end;
  }
  // They grow from 0: the last one tells.
  const std::vector<std::int64_t>& positions = table.positions_;
  if (!positions.empty() && positions.back() >= table.num_tokens_) layout.positions = positions;
  return layout;
}

void HeldTables::pack_positions(std::int64_t* positions) const {
  for (const BlockTable* table : tables_) {
    for (std::int64_t token = 0; token < max_tokens_; ++token) {
      *positions++ = token < table->num_tokens_ ? table->position_of(token) : 0;
    }
  }
}

template <class Id>
void HeldTables::pack(Id pad, Id* block_tables, Id* seq_lens) const {
  for (std::int64_t i = 0; i < size(); ++i) {
    const std::vector<std::int32_t>& blocks = tables_[i]->blocks_;
    Id* row = block_tables + i * max_blocks_;
    std::fill(std::copy(blocks.begin(), blocks.end(), row), row + max_blocks_, pad);
    const ColumnHistory& history = tables_[i]->history_;
    const auto open_ids = history.ids().last(history.num_open());
    std::copy(open_ids.begin(), open_ids.end(), row + tables_[i]->first_open());
    seq_lens[i] = static_cast<Id>(tables_[i]->num_tokens_);
  }
}
template void HeldTables::pack(std::int32_t, std::int32_t*, std::int32_t*) const;
template void HeldTables::pack(std::int64_t, std::int64_t*, std::int64_t*) const;

}  // namespace quire
