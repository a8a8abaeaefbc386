#include "quire/kv/table/column_history.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "quire/kv/ledger/block_ledger.h"

namespace quire {

// until(c) >= num_tokens - kTokens
std::int64_t ColumnHistory::first_pinned_at(std::int64_t num_tokens) const {
  const std::int64_t horizon = std::max<std::int64_t>(0, num_tokens - kTokens);
  return std::max<std::int64_t>(0, (horizon + block_size_ - 1) / block_size_ - stay_);
}

void ColumnHistory::reserve_open(std::int64_t columns) {
  ids_.reserve(ids_.size() + columns);
  until_.reserve(ids_.size() + columns);
}

void ColumnHistory::seal(std::int64_t first, std::int64_t columns, std::int64_t from_tokens) {
  assert(columns <= num_open());
  for (std::int64_t column = first; column < first + columns; ++column) {
    until_.push_back(std::max(from_tokens, (column + stay_) * block_size_));
  }
}

std::int64_t ColumnHistory::until(std::int64_t column, std::int64_t first_pinned,
                                  std::int64_t num_tokens) const {
  const std::int64_t place = column - first_pinned;
  return place < std::ssize(until_) ? until_[place]
                                    : std::max(num_tokens, (column + stay_) * block_size_);
}

std::int64_t ColumnHistory::advance(std::int64_t horizon) {
  horizon_ = std::max(horizon_, horizon);
  return std::lower_bound(until_.begin(), until_.end(), horizon_) - until_.begin();
}

void ColumnHistory::drop_first(std::int64_t columns) {
  ids_.erase(ids_.begin(), ids_.begin() + columns);
  until_.erase(until_.begin(), until_.begin() + columns);
}

std::int64_t ColumnHistory::truncate(std::int64_t num_tokens, std::int64_t pinned) {
  ids_.resize(pinned);
  const std::int64_t left = std::min(std::ssize(until_), pinned);
  const auto sealed = std::lower_bound(until_.begin(), until_.begin() + left, num_tokens);
  const std::int64_t opened = until_.begin() + left - sealed;
  until_.erase(sealed, until_.end());
  horizon_ = std::min(horizon_, num_tokens);
  if (replaced_.num_tokens >= num_tokens) replaced_ = {};
  return opened;
}

void ColumnHistory::begin(std::int64_t num_tokens, std::vector<std::int32_t>&& open_ids) {
  ids_ = std::move(open_ids);
  until_.clear();
  horizon_ = num_tokens;
  replaced_ = {};
}

void ColumnHistory::check(std::int64_t num_tokens) const {
  const auto fail = [](const char* what, std::int64_t got, const auto&... expected) {
    raise<InvariantError>(place("BlockTable.check", what), "got ", got, ", expected ", expected...);
  };
  if (horizon_ < 0 || horizon_ > num_tokens) fail("horizon", horizon_, "0 to ", num_tokens);
  const std::int64_t columns = num_tokens / block_size_ + (num_tokens % block_size_ != 0);
  if (num_pinned() > columns) fail("pinned columns", num_pinned(), "at most ", columns);
  if (num_open() < 0) fail("sealed columns", std::ssize(until_), "at most ", num_pinned());
  std::int64_t least = horizon_;
  for (const std::int64_t until : until_) {
    if (until < least || until >= num_tokens) fail("until", until, least, " to ", num_tokens - 1);
    least = until;
  }
  if (!replaced_.is_there()) return;
  if (replaced_.num_tokens < horizon_ || replaced_.num_tokens >= num_tokens) {
    fail("tokens of a replaced block", replaced_.num_tokens, horizon_, " to ", num_tokens - 1);
  }
}

}  // namespace quire
