// Which columns of a table have their rows in full precision: those that it reads so, and those
// that it would read so again if it were truncated.
//
//   columns      [ sealed ... sealed | kept ... kept | open ... open ]
//                                    ^ first_pinned  ^ first_open
//
// Whoever tries tokens out and takes some back gets what there was before: a column that was open
// when the table had so many tokens is open again, and its rows have stood in its slot meanwhile.
// With `stay` columns that stay open, of block_size tokens, for a table of n tokens:
//
//   horizon      the least length at which a truncated table is what it was with so many tokens:
//                  n                           when it is made of what was there before
//                  max(horizon, n - kTokens)   when it has grown to n
//                  min(horizon, n)             when it was truncated to n
//   until(c)     the greatest length at which column c is read open: none yet of one that is open,
//                or else, when the table that sealed it had grown from m tokens,
//                  max(m, (c + stay) * block_size)
//                as there it is open before it grows, and sealed as soon as `stay` others follow
//
//   c is pinned            exactly where it was opened, and is open or until(c) >= horizon
//   c is open              exactly where it was opened, and has no until(c), or until(c) >= n
//   until(c) <= until(c + 1)                so both are the last columns
//   pinned columns         at most stay + ceil(kTokens / block_size), where the table grows by
//                          append; extend has more of them open at once
//
// A sealed last block that is to be written is none of these: what was in its tile has no copy. So
// the table goes on in a new block, and keeps the old one as long as it may come back:
//
//   replaced     the block, and the table's length then; horizon <= that length < n, or none
//
// There is never more than one: columns behind it were opened, and are pinned or full.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "quire/kv/ledger/open_slots.h"

namespace quire {

// The books of one table, which knows its blocks; its columns are counted from the first pinned
// one here. Nothing throws but reserve, copies and check.
class ColumnHistory {
 public:
  // So many tokens can be taken back.
  static constexpr std::int64_t kTokens = kTokensToTakeBack;

  struct Replaced {
    std::int32_t block = -1;
    std::int64_t num_tokens = 0;

    bool is_there() const { return block >= 0; }
  };

  ColumnHistory(std::int64_t block_size, std::int64_t stay)
      : block_size_(block_size), stay_(std::min(stay, kMostTokens / block_size)) {}

  // Whether columns are opened at all: else none is ever pinned.
  bool opens() const { return stay_ > 0; }
  std::int64_t num_pinned() const { return std::ssize(ids_); }
  std::int64_t num_open() const { return std::ssize(ids_) - std::ssize(until_); }
  // Of pinned columns, where their rows are (open_blocks.h); kHole of dropped ones.
  std::span<std::int32_t> ids() { return ids_; }
  std::span<const std::int32_t> ids() const { return ids_; }
  std::int64_t horizon() const { return horizon_; }
  const Replaced& replaced() const { return replaced_; }

  // Of a column from `first_pinned` on, the first that is pinned, maybe one that is opened when the
  // table grows on by append from so many tokens: until(c), or what that will be.
  std::int64_t until(std::int64_t column, std::int64_t first_pinned, std::int64_t num_tokens) const;
  // The first column that is pinned once a table has grown to so many tokens by append.
  std::int64_t first_pinned_at(std::int64_t num_tokens) const;

  // Room for so many columns more, if columns are opened.
  void reserve(std::int64_t columns) {
    if (opens()) reserve_open(columns);
  }
  // A column more is open, or the last one no longer.
  void push(std::int32_t id) { ids_.push_back(id); }
  void pop() { ids_.pop_back(); }
  void replace(Replaced block) { replaced_ = block; }
  void forget_replaced() { replaced_ = {}; }

  // The first `columns` of those that are open are sealed, the first of them column `first`, as the
  // table has grown from so many tokens.
  void seal(std::int64_t first, std::int64_t columns, std::int64_t from_tokens);

  // Moves the horizon to so many tokens, unless it is there. Returns how many columns, the first,
  // are not pinned by it any more, to be unpinned and dropped here; and whether what was replaced
  // is still to be kept.
  std::int64_t advance(std::int64_t horizon);
  bool keeps_replaced() const { return replaced_.num_tokens >= horizon_; }
  void drop_first(std::int64_t columns);

  // All pinned columns are open again.
  void reopen() { until_.clear(); }

  // So many of the pinned columns are left to a table that is truncated. Returns how many of them,
  // the last that were sealed, are open again.
  std::int64_t truncate(std::int64_t num_tokens, std::int64_t pinned);

  // Of a table that is made of what was there before, whose last columns are open.
  void begin(std::int64_t num_tokens, std::vector<std::int32_t>&& open_ids);
  void begin(std::int64_t num_tokens) { horizon_ = num_tokens; }

  // Throws InvariantError on the first equation that fails, of a table of so many tokens.
  void check(std::int64_t num_tokens) const;

 private:
  friend class ColumnHistoryTest;

  void reserve_open(std::int64_t columns);

  static constexpr std::int64_t kMostTokens = std::int64_t{1} << 60;  // more than any table has

  std::int64_t block_size_, stay_;
  std::vector<std::int32_t> ids_;
  std::vector<std::int64_t> until_;  // of the first of them, which are sealed
  std::int64_t horizon_ = 0;
  Replaced replaced_;
};

}  // namespace quire
