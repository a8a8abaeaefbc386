// Of BlockTable: rows that come with their tokens, in a pool that opens blocks.
#include <algorithm>
#include <cassert>
#include <optional>
#include <span>
#include <vector>

#include "quire/kv/table/block_table.h"

namespace quire {

// In order, so that never more than a few blocks are open however many tokens there are. All blocks
// are taken before the first is written. What is written in one part lets go of nothing before it
// is there; of several, a savepoint holds what the table was. With write_sealed, where nobody has
// to make room in memory for tiles, the last block takes what fits, then columns that would not
// stay pinned are written, and then the others.
void BlockTable::append_in_parts(std::span<std::int64_t> slots, const WritePart& write,
                                 const WriteSealed& write_sealed) {
  const auto n = static_cast<std::int64_t>(slots.size());
  const Asked asked{"BlockTable.append", "k", n};
  const std::int64_t num_tokens = columns_.num_tokens, num_old = columns_.size();
  const OpenColumns open = open_columns();
  require_within_pool(asked);
  // A block at a time takes the least; each block more in a part takes one more.
  const std::int64_t opens_last = open.opens_last_for(n);
  const std::int64_t least = opens_last + open.least_opened_for(n);
  const std::int64_t wanted =
      std::min(opens_last + columns_.new_blocks(n), least + OpenColumns::kBlocksOpened - 1);
  const OpenRoom::Claim claim(pool_->open_room(), asked, least, wanted);
  const std::int64_t part_blocks =
      claim.slots() == wanted ? OpenColumns::kBlocksOpened : 1 + claim.slots() - least;
  const std::int64_t num_sealed = write_sealed != nullptr && !pool_->residency().is_limited()
                                      ? columns_.history.first_pinned_at(num_tokens + n) - num_old
                                      : 0;
  std::vector<std::int32_t> new_columns(columns_.new_blocks(n));  // before anything is taken
  std::optional<Savepoint> before;
  if (num_sealed > 0 || n - columns_.fit_in_last(n) > part_blocks * columns_.block_size) {
    before.emplace(*pool_, columns_);
  }
  const CopiedBlock copied = take_blocks(asked);
  if (before) before->hold();
  std::copy(columns_.blocks.begin() + num_old, columns_.blocks.end(), new_columns.begin());
  columns_.blocks.resize(num_old);
  auto next = new_columns.begin();
  std::int64_t done = 0;
  const auto add_columns = [&](std::int64_t tokens) {
    const auto end = next + columns_.new_blocks(tokens);
    columns_.blocks.insert(columns_.blocks.end(), next, end);
    next = end;  // room was made for all
    return slots.subspan(done, tokens);
  };
  const auto write_open = [&](std::int64_t tokens) {
    const std::int64_t first = columns_.size();
    const std::span<std::int64_t> taken = add_columns(tokens);
    open.open_from(first);
    count_tokens(taken);
    write(taken);
    done += tokens;
  };
  try {
    if (num_sealed > 0) {
      if (const std::int64_t tokens = columns_.fit_in_last(n); tokens > 0) write_open(tokens);
      open.seal_before(num_old, num_tokens);
      open.advance_to(num_tokens + n - ColumnHistory::kTokens);  // which pins none of these columns
      count_tokens(add_columns(num_sealed * columns_.block_size));
      write_sealed(std::span(columns_.blocks).subspan(num_old), done);
      done += num_sealed * columns_.block_size;
    }
    while (done < n) {
      write_open(
          std::min(n - done, columns_.fit_in_last(n - done) + part_blocks * columns_.block_size));
      open.seal_before(columns_.size() - open.stay(), num_tokens);
      open.advance_to(columns_.num_tokens - ColumnHistory::kTokens);
    }
  } catch (...) {
    if (next != new_columns.end()) {  // all columns that are there are full then
      const std::int64_t full = num_old + std::ssize(new_columns) - 1;
      BlockPool::Books(*pool_)->drop({next, new_columns.end()},
                                     num_tokens + n - full * columns_.block_size);
    }
    if (before) {
      positions_.truncate(columns_.num_tokens, num_tokens);
      before->restore(columns_);
      let_go_of(copied);
      assert(holds([&] { check_changed(); }));
    } else {
      shrink(num_tokens);
      put_back(copied);
    }
    throw;
  }
  let_go_of(copied);
  assert(holds([&] { check_changed(); }));
}

}  // namespace quire
