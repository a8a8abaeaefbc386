// What a block table has of a sequence, apart from the rows: with them, enough to make it again.
//
//   table, block_size 4          [ 7 | -1 | -1 | 2 | 5 ]       18 tokens
//   column_ranges                 0:1           3:5            the columns that are no holes
//   stored_tokens                 4             4 + 2          rows that are there
//   num_open = 2, of int4                     [ open ]         the last columns are read open
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quire {

struct TableLayout {
  struct Range {
    std::int64_t begin = 0, end = 0;  // the first, and the one after the last
    bool operator==(const Range&) const = default;
  };

  // HeldTables takes no longer ones.
  static constexpr std::int64_t kMaxTokens = (std::int64_t{1} << 31) - 1;
  // Attention takes no greater ones.
  static constexpr std::int64_t kMaxPosition = std::int64_t{1} << 40;
  // Of a table with holes, whose columns are more than its blocks: what takes no more than a line
  // to write down must not take all memory.
  static constexpr std::int64_t kMaxColumns = std::int64_t{1} << 24;

  std::int64_t num_tokens = 0;
  std::vector<Range> column_ranges;     // ascending, with a hole or more between them
  std::vector<std::int64_t> positions;  // [num_tokens]; empty where they are 0, 1, 2, ...
  std::int64_t next_position = 0;
  std::int64_t num_open = 0;  // columns, the last ones; holes among them are counted

  std::int64_t num_columns(std::int64_t block_size) const {
    return num_tokens / block_size + (num_tokens % block_size != 0);
  }
  // Blocks, and the rows of them that tokens have.
  std::int64_t num_blocks() const;
  std::int64_t stored_tokens(std::int64_t block_size) const;
  // Of these, those in columns that are read open.
  std::int64_t open_blocks(std::int64_t block_size) const;
  std::int64_t open_tokens(std::int64_t block_size) const;

  // What makes it one that no table has, as "SOMETHING VALUE, expected ..."; "" where there is
  // nothing. Only of one without a flaw may the numbers above be asked for.
  std::string flaw(std::int64_t block_size) const;
};

}  // namespace quire
