// Tokens that a table gives up before its end: whole blocks, or all but some chosen ones.
#include <algorithm>
#include <cassert>
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
  const std::int64_t next = positions_.next(columns_.num_tokens);
  if (position > next) {
    raise<ValueError>(place(function, "position"), "got ", position, ", expected at most ", next,
                      ", the position of the next token");
  }
  if (num_sink_tokens < 0) {
    raise<ValueError>(place(function, "num_sink_tokens"), "got ", num_sink_tokens,
                      ", expected >= 0");
  }
  const std::int64_t end =
      positions_.token_from(position, columns_.num_tokens) / columns_.block_size;
  const std::int64_t sink_tokens = positions_.token_from(num_sink_tokens, columns_.num_tokens);
  const std::int64_t begin =
      sink_tokens / columns_.block_size + (sink_tokens % columns_.block_size != 0);
  if (begin >= end) return;
  const auto dropped = std::span(columns_.blocks).subspan(begin, end - begin);  // of full blocks
  const OpenColumns open = open_columns();
  {
    const BlockPool::Books books(*pool_);
    open.unpin(books, begin, end);
    books->drop(dropped, columns_.block_size);
    const std::int64_t replaced =
        columns_.history.replaced().num_tokens / columns_.block_size;  // its column
    if (columns_.history.replaced().is_there() && replaced >= begin && replaced < end)
      open.drop_replaced(books);
  }
  pool_->open_room().settle();
  std::fill(dropped.begin(), dropped.end(), kHole);
  for (std::int64_t column = std::max(begin, columns_.first_pinned()); column < end; ++column) {
    columns_.history.ids()[column - columns_.first_pinned()] = kHole;
  }
  assert(holds([&] { check_changed(); }));
}

void BlockTable::keep(std::span<const std::int64_t> positions) {
  const BlockPool::Delivery delivery(*pool_);
  const std::lock_guard lock(mutex_);
  require_in_use(kKeep);
  pool_->storage().memory().require_written(kKeep);
  std::vector<std::int64_t> kept(positions.begin(), positions.end());
  std::vector<std::int64_t> sources = tokens_at(kept);
  const std::int64_t size = std::ssize(kept), next = positions_.next(columns_.num_tokens);
  if (size == columns_.num_tokens) return;
  if (size == 0 || sources.back() == size - 1) {  // the first ones, none of which moves
    shrink(size);
    const OpenColumns open = open_columns();
    open.seal_before(columns_.size() - open.stay(), size - 1);
    open.advance_to(size);
  } else {
    compact(std::move(sources));
  }
  columns_.num_tokens = size;
  positions_.begin(size, next, std::move(kept));
  assert(holds([&] { check_changed(); }));
}

std::vector<std::int64_t> BlockTable::tokens_at(std::span<const std::int64_t> positions) const {
  std::vector<std::int64_t> tokens(positions.size());
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const std::int64_t position = positions[i];
    if (i > 0 && position <= positions[i - 1]) {
      raise<ValueError>(place(kKeep, "positions"), "got ", position, " at index ", i,
                        ", expected more than ", positions[i - 1], ", the one before it");
    }
    tokens[i] = positions_.token_from(position, columns_.num_tokens);
    if (tokens[i] == columns_.num_tokens || positions_.of(tokens[i]) != position) {
      raise<IndexError>(place(kKeep, "positions"), "got ", position, " at index ", i,
                        ", expected the position of a token of the table");
    }
    if (columns_.blocks[tokens[i] / columns_.block_size] == kHole) {
      raise<IndexError>(place(kKeep, "positions"), "got ", position, " at index ", i,
                        ", whose block is a hole, expected a token that was not dropped");
    }
  }
  return tokens;
}

std::vector<std::int64_t> BlockTable::positions() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.positions");
  std::vector<std::int64_t> positions(static_cast<std::size_t>(columns_.num_tokens));
  for (std::int64_t token = 0; token < columns_.num_tokens; ++token)
    positions[token] = positions_.of(token);
  return positions;
}

std::int64_t BlockTable::next_position() const {
  const std::shared_lock lock(mutex_);
  require_in_use("BlockTable.next_position");
  return positions_.next(columns_.num_tokens);
}

void BlockTable::require_beginning(std::string_view where, std::int64_t num_tokens) const {
  if (num_tokens == 0 || positions_.of(num_tokens - 1) == num_tokens - 1) return;
  raise<ValueError>(where, "got a token of position ", positions_.of(num_tokens - 1), " at index ",
                    num_tokens - 1, ", expected all of the first ", num_tokens, " positions");
}

}  // namespace quire
