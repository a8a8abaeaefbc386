// The block that a table goes on from in a new one: sealed, and not full. It is the table's as long
// as it may come back (column_history.h).
#pragma once

#include <cstdint>
#include <optional>

#include "kv/table/open_sequence.h"

namespace quire::testing {

class ReplacedBlock {
 public:
  // Whether a table, which has such a block last, goes on with n more tokens in a new one.
  static bool is_made(const OpenSequence& sequence, std::int64_t n) {
    return n > 0 && sequence.ends_within_block() && !sequence.is_open(sequence.num_columns() - 1);
  }

  bool is_there() const { return is_there_; }
  std::int32_t block() const { return block_; }
  std::int64_t length() const { return length_; }  // of the table, when it had it last

  void set(std::int32_t block, std::int64_t length) {
    is_there_ = true;
    block_ = block;
    length_ = length;
  }
  // Where a table of so many tokens, which was truncated or cannot go back so far, lets go of it,
  // returns which; where it has it again as well.
  std::optional<std::int32_t> let_go(const OpenSequence& sequence) {
    if (!is_there_ || (length_ < sequence.size() && length_ >= sequence.horizon())) return {};
    is_there_ = false;
    return block_;
  }
  void forget() { is_there_ = false; }

 private:
  bool is_there_ = false;
  std::int32_t block_ = -1;
  std::int64_t length_ = 0;
};

}  // namespace quire::testing
