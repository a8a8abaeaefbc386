// Where the tokens of a table stand in their sequence.
//
//   position(i) = i                      as long as no token was taken out
//   else it grows with i, and is what it was
//   position of the next token = num_tokens + num_removed
//
// A table whose tokens were taken out (BlockTable::keep) lists the positions of those that are
// left; others list none, and cost nothing. Who has this knows the number of tokens, and says it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quire {

class TokenPositions {
 public:
  // Of a table of so many tokens, whose next one stands there; `positions` [num_tokens], or empty
  // where they are 0, 1, 2, ...
  void begin(std::int64_t num_tokens, std::int64_t next, std::vector<std::int64_t>&& positions);

  // Whether positions are listed: some may be other than the tokens' indices.
  bool are_listed() const { return !listed_.empty(); }
  std::span<const std::int64_t> listed() const { return listed_; }
  std::int64_t of(std::int64_t token) const { return listed_.empty() ? token : listed_[token]; }
  std::int64_t next(std::int64_t num_tokens) const { return num_tokens + num_removed_; }
  // The first of num_tokens tokens that stands at `position` or later; num_tokens where there is
  // none.
  std::int64_t token_from(std::int64_t position, std::int64_t num_tokens) const;

  // n tokens more: room for them, which may throw, and then they follow the last.
  void reserve(std::int64_t num_tokens, std::int64_t n) {
    if (num_removed_ > 0) listed_.reserve(num_tokens + n);
  }
  void grow(std::int64_t num_tokens, std::int64_t n) {
    for (std::int64_t i = 0; num_removed_ > 0 && i < n; ++i) {
      listed_.push_back(num_tokens + num_removed_ + i);
    }
  }

  // All but the first `left` of num_tokens tokens go. The next takes the position of the first that
  // goes; no token at all leaves the next one where it would have stood.
  void truncate(std::int64_t num_tokens, std::int64_t left) noexcept;
  // No token is left, and the next stands at 0.
  void restart() { num_removed_ = 0; }

  // Throws InvariantError on the first equation that fails, of a table of so many tokens.
  void check(std::int64_t num_tokens) const;

 private:
  friend class TokenPositionsTest;

  std::int64_t num_removed_ = 0;      // tokens that were taken out
  std::vector<std::int64_t> listed_;  // [num_tokens] where there are such, else empty
};

}  // namespace quire
