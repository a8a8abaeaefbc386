#include "quire/kv/table/table_layout.h"

#include <algorithm>

#include "quire/base/check.h"

namespace quire {
namespace {

std::string flaw_of_columns(const TableLayout& layout, std::int64_t block_size) {
  const std::int64_t columns = layout.num_columns(block_size);
  std::int64_t least = 0;
  for (std::size_t i = 0; i < layout.column_ranges.size(); ++i) {
    const auto [begin, end] = layout.column_ranges[i];
    if (begin < least || end <= begin || end > columns) {
      return concat("block range ", begin, ":", end, " at index ", i, ", expected one within ",
                    least, ":", columns,
                    i > 0 ? ", as ranges grow and stand apart" : ", and not an empty one");
    }
    least = end + 1;
  }
  const std::int64_t end = layout.column_ranges.empty() ? 0 : layout.column_ranges.back().end;
  if (layout.num_tokens % block_size != 0 && end != columns) {
    return concat("block ranges up to ", end, ", expected up to ", columns,
                  ": the last block is not full, and never a hole");
  }
  if (layout.num_blocks() < columns && columns > TableLayout::kMaxColumns) {
    return concat(columns, " columns with holes, expected at most ", TableLayout::kMaxColumns);
  }
  if (layout.num_open < 0 || layout.num_open > columns) {
    return concat(layout.num_open, " open columns, expected 0 to ", columns);
  }
  return "";
}

std::string flaw_of_positions(const TableLayout& layout) {
  const std::vector<std::int64_t>& positions = layout.positions;
  if (!positions.empty() && static_cast<std::int64_t>(positions.size()) != layout.num_tokens) {
    return concat(positions.size(), " positions, expected ", layout.num_tokens, ", one a token");
  }
  std::int64_t least = 0;
  for (std::size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] < least || positions[i] >= TableLayout::kMaxPosition) {
      return concat("position ", positions[i], " at index ", i, ", expected ", least, " to ",
                    TableLayout::kMaxPosition - 1, i > 0 ? ", as positions grow" : "");
    }
    least = positions[i] + 1;
  }
  if (positions.empty()) least = layout.num_tokens;
  if (layout.next_position < least || layout.next_position > TableLayout::kMaxPosition) {
    return concat("next position ", layout.next_position, ", expected ", least, " to ",
                  TableLayout::kMaxPosition);
  }
  return "";
}

}  // namespace

std::int64_t TableLayout::num_blocks() const {
  std::int64_t blocks = 0;
  for (const auto& [begin, end] : column_ranges) blocks += end - begin;
  return blocks;
}

std::int64_t TableLayout::stored_tokens(std::int64_t block_size) const {
  const std::int64_t holes = num_columns(block_size) - num_blocks();
  return num_tokens - holes * block_size;  // all holes are full
}

std::int64_t TableLayout::open_blocks(std::int64_t block_size) const {
  const std::int64_t first_open = num_columns(block_size) - num_open;
  std::int64_t blocks = 0;
  for (const auto& [begin, end] : column_ranges) {
    blocks += std::max<std::int64_t>(0, end - std::max(begin, first_open));
  }
  return blocks;
}

std::int64_t TableLayout::open_tokens(std::int64_t block_size) const {
  if (num_open == 0) return 0;
  // Only the last column has free rows, and is no hole then.
  const std::int64_t free_rows = num_columns(block_size) * block_size - num_tokens;
  return open_blocks(block_size) * block_size - free_rows;
}

std::string TableLayout::flaw(std::int64_t block_size) const {
  if (num_tokens < 0 || num_tokens > kMaxTokens) {
    return concat(num_tokens, " tokens, expected 0 to ", kMaxTokens);
  }
  const std::string flaw = flaw_of_columns(*this, block_size);
  return flaw.empty() ? flaw_of_positions(*this) : flaw;
}

}  // namespace quire
