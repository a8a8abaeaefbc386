// Tokens that a table gives up before its end: whole blocks, or all but some chosen ones.
#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"

namespace quire {
namespace {

constexpr std::string_view kKeep = "BlockTable.keep";

}  // namespace

void BlockTable::drop_before(std::int64_t position, std::int64_t num_sink_tokens) {
  constexpr std::string_view function = "BlockTable.drop_before";
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use(function);
  if (position > num_tokens_ + num_removed_) {
    raise<ValueError>(place(function, "position"), "got ", position, ", expected at most ",
                      num_tokens_ + num_removed_, ", the position of the next token");
  }
  if (num_sink_tokens < 0) {
    raise<ValueError>(place(function, "num_sink_tokens"), "got ", num_sink_tokens,
                      ", expected >= 0");
  }
  const std::int64_t end = token_from(position) / block_size_;
  const std::int64_t sink_tokens = token_from(num_sink_tokens);
  const std::int64_t begin = sink_tokens / block_size_ + (sink_tokens % block_size_ != 0);
  if (begin >= end) return;
  const auto dropped = std::span(blocks_).subspan(begin, end - begin);  // of full blocks
  {
    const BlockPool::Books books(*pool_);
    unpin(books, begin, end);
    books->drop(dropped, block_size_);
    const std::int64_t replaced = history_.replaced().num_tokens / block_size_;  // its column
    if (history_.replaced().is_there() && replaced >= begin && replaced < end) drop_replaced(books);
  }
  if (pool_->open_room() != nullptr) pool_->open_room()->settle();
  std::fill(dropped.begin(), dropped.end(), kHole);
  for (std::int64_t column = std::max(begin, first_pinned()); column < end; ++column) {
    history_.ids()[column - first_pinned()] = kHole;
  }
}

void BlockTable::keep(std::span<const std::int64_t> positions) {
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use(kKeep);
  pool_->storage().memory().require_written(kKeep);
  std::vector<std::int64_t> kept(positions.begin(), positions.end());
  std::vector<std::int64_t> sources = tokens_at(kept);
  const std::int64_t size = std::ssize(kept), next = num_tokens_ + num_removed_;
  if (size == num_tokens_) return;
  if (size == 0 || sources.back() == size - 1) {  // the first ones, none of which moves
    shrink(size);
    if (pool_->open_blocks() != nullptr) {
      seal_before(std::ssize(blocks_) - stays_open(), size - 1);
      advance_to(size);
    }
  } else {
    compact(std::move(sources));
  }
  num_removed_ = next - size;
  num_tokens_ = size;
  positions_ = std::move(kept);
}

std::vector<std::int64_t> BlockTable::tokens_at(std::span<const std::int64_t> positions) const {
  std::vector<std::int64_t> tokens(positions.size());
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const std::int64_t position = positions[i];
    if (i > 0 && position <= positions[i - 1]) {
      raise<ValueError>(place(kKeep, "positions"), "got ", position, " at index ", i,
                        ", expected more than ", positions[i - 1], ", the one before it");
    }
    tokens[i] = token_from(position);
    if (tokens[i] == num_tokens_ || position_of(tokens[i]) != position) {
      raise<IndexError>(place(kKeep, "positions"), "got ", position, " at index ", i,
                        ", expected the position of a token of the table");
    }
    if (blocks_[tokens[i] / block_size_] == kHole) {
      raise<IndexError>(place(kKeep, "positions"), "got ", position, " at index ", i,
                        ", whose block is a hole, expected a token that was not dropped");
    }
  }
  return tokens;
}

std::int64_t BlockTable::token_from(std::int64_t position) const {
  if (positions_.empty()) return std::clamp<std::int64_t>(position, 0, num_tokens_);
  return std::lower_bound(positions_.begin(), positions_.end(), position) - positions_.begin();
}

std::vector<std::int64_t> BlockTable::positions() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.positions");
  std::vector<std::int64_t> positions(static_cast<std::size_t>(num_tokens_));
  for (std::int64_t token = 0; token < num_tokens_; ++token) positions[token] = position_of(token);
  return positions;
}

std::int64_t BlockTable::next_position() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.next_position");
  return num_tokens_ + num_removed_;
}

void BlockTable::require_no_hole(std::string_view where, std::int64_t num_tokens) const {
  for (std::int64_t column = 0; column * block_size_ < num_tokens; ++column) {
    if (blocks_[column] != kHole) continue;
    raise<ValueError>(where, "got a hole at column ", column, ", of ",
                      counted(block_size_, "dropped token"), ", expected all of the first ",
                      num_tokens);
  }
}

void BlockTable::require_beginning(std::string_view where, std::int64_t num_tokens) const {
  if (num_tokens == 0 || position_of(num_tokens - 1) == num_tokens - 1) return;
  raise<ValueError>(where, "got a token of position ", position_of(num_tokens - 1), " at index ",
                    num_tokens - 1, ", expected all of the first ", num_tokens, " positions");
}

}  // namespace quire
