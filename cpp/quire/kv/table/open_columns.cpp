// Of BlockTable: columns that are read open, and when they are sealed.
#include <algorithm>
#include <span>
#include <vector>

#include "quire/kv/table/block_table.h"

namespace quire {

// In order, so that never more than a few blocks are open however many tokens there are. All blocks
// are taken before the first is written. With write_sealed, where nobody has to make room in memory
// for tiles, the last block takes what fits, then columns that would not stay pinned are written,
// and then the others.
void BlockTable::append_in_parts(std::span<std::int64_t> slots, const WritePart& write,
                                 const WriteSealed& write_sealed) {
  const auto n = static_cast<std::int64_t>(slots.size());
  const Asked asked{"BlockTable.append", "k", n};
  const std::int64_t num_tokens = num_tokens_, num_old = std::ssize(blocks_);
  require_within_pool(asked);
  // A block at a time takes the least; each block more in a part takes one more.
  const std::int64_t opens_last = opens_last_for(n), least = opens_last + least_opened_for(n);
  const std::int64_t wanted = std::min(opens_last + new_blocks(n), least + kBlocksOpened - 1);
  const OpenRoom::Claim claim(pool_->open_room(), asked, least, wanted);
  const std::int64_t part_blocks =
      claim.slots() == wanted ? kBlocksOpened : 1 + claim.slots() - least;
  std::vector<std::int32_t> new_columns(new_blocks(n));  // before anything is taken
  take_blocks(asked);
  std::copy(blocks_.begin() + num_old, blocks_.end(), new_columns.begin());
  blocks_.resize(num_old);
  auto next = new_columns.begin();
  std::int64_t done = 0;
  const auto add_columns = [&](std::int64_t tokens) {
    const auto end = next + new_blocks(tokens);
    blocks_.insert(blocks_.end(), next, end);
    next = end;  // room was made for all
    return slots.subspan(done, tokens);
  };
  const auto write_open = [&](std::int64_t tokens) {
    const std::int64_t first = std::ssize(blocks_);
    const std::span<std::int64_t> taken = add_columns(tokens);
    open_columns(first);
    count_tokens(taken);
    write(taken);
    done += tokens;
  };
  try {
    const std::int64_t num_sealed = history_.first_pinned_at(num_tokens + n) - num_old;
    if (write_sealed != nullptr && pool_->residency() == nullptr && num_sealed > 0) {
      if (const std::int64_t tokens = fit_in_last(n); tokens > 0) write_open(tokens);
      seal_before(num_old, num_tokens);
      advance_to(num_tokens + n - ColumnHistory::kTokens);  // which pins none of these columns
      count_tokens(add_columns(num_sealed * block_size_));
      write_sealed(std::span(blocks_).subspan(num_old), done);
      done += num_sealed * block_size_;
    }
    while (done < n) {
      write_open(std::min(n - done, fit_in_last(n - done) + part_blocks * block_size_));
      seal_before(std::ssize(blocks_) - stays_open(), num_tokens);
      advance_to(num_tokens_ - ColumnHistory::kTokens);
    }
  } catch (...) {
    if (next != new_columns.end()) {  // all columns that are there are full then
      const std::int64_t before = num_old + std::ssize(new_columns) - 1;
      BlockPool::Books(*pool_)->drop({next, new_columns.end()},
                                     num_tokens + n - before * block_size_);
    }
    shrink(num_tokens);
    throw;
  }
}

OpenRoom::Claim BlockTable::claim_to_grow(const Asked& asked) const {
  if (pool_->open_room() == nullptr) return {nullptr, {}, 0, 0};
  const std::int64_t slots = opens_last_for(asked.value) + new_blocks(asked.value);
  return {pool_->open_room(), asked, slots, slots};
}

std::int64_t BlockTable::opens_last_for(std::int64_t n) const {
  if (pool_->open_room() == nullptr || fit_in_last(n) == 0) return 0;
  return history_.num_open() == 0 || BlockPool::Books(*pool_)->references(blocks_.back()) > 1;
}

// What n more tokens take where blocks are opened one at a time: at each of them those that are
// pinned then, less those that are pinned now. The first of these go on the way, and so do their
// slots, where nobody else has pinned them.
std::int64_t BlockTable::least_opened_for(std::int64_t n) const {
  const std::int64_t num_new = new_blocks(n), columns = std::ssize(blocks_);
  if (pool_->open_room() == nullptr || num_new == 0) return 0;
  const BlockPool::Books books(*pool_);
  std::int64_t released = 0, first = first_pinned(), most = 0;
  for (std::int64_t opened = 1; opened <= num_new; ++opened) {
    // the first is opened in one step with what the last block takes
    const std::int64_t horizon =
        opened == 1 ? 0 : (columns + opened - 1) * block_size_ - ColumnHistory::kTokens;
    while (history_.until(first, first_pinned(), num_tokens_) < horizon) {
      const bool is_new = first >= columns;
      released += is_new || (blocks_[first] != kHole && books->holders(blocks_[first]).tables == 1);
      ++first;
    }
    most = std::max(most, opened - released);
  }
  return most;
}

void BlockTable::open_columns(std::int64_t first) noexcept {
  {
    const BlockPool::Books books(*pool_);
    for (std::int64_t column = first; column < std::ssize(blocks_); ++column) {
      const std::int32_t block = blocks_[column];
      history_.push(block == kHole ? kHole : open_to_write(books, block, block));
    }
  }
  pool_->tell_of(std::span(blocks_).subspan(first));
}

std::int32_t BlockTable::open_to_write(const BlockPool::Books& books, std::int32_t block,
                                       std::int32_t id) const noexcept {
  OpenSlots& open = *books->open_slots();
  if (!pool_->open_blocks()->is_open(id)) return pool_->open_blocks()->id_of(open.open(block));
  open.write(block);
  return id;
}

void BlockTable::seal_before(std::int64_t end, std::int64_t from_tokens) noexcept {
  const std::int64_t begin = first_open();
  if (end <= begin) return;
  const auto sealed = std::span(blocks_).subspan(begin, end - begin);
  pool_->seal(sealed);
  {
    const BlockPool::Books books(*pool_);
    for (const std::int32_t block : sealed) {
      if (block != kHole) books->open_slots()->stop_reading(block);
    }
  }
  history_.seal(begin, end - begin, from_tokens);
}

void BlockTable::gather_opened(std::int64_t layer, std::int64_t tokens, float* k, float* v) const {
  const KvGeometry& geometry = pool_->geometry();
  const OpenBlocks& blocks = *pool_->open_blocks();
  std::vector<std::int32_t> ids;
  for (std::int64_t column = 0; column * block_size_ < tokens; ++column) {
    ids.push_back(read_id(column));
  }
  pool_->read_in_order(layer, ids, [&](std::size_t first, std::size_t last) {
    const std::int64_t end = std::min(static_cast<std::int64_t>(last) * block_size_, tokens);
    for (std::int64_t token = static_cast<std::int64_t>(first) * block_size_; token < end;
         ++token) {
      if (token % kTokensPerLook == 0) check_interruption();
      const RowPlace place = {ids[token / block_size_], token % block_size_};
      for (std::int64_t head = 0; head < geometry.num_kv_heads; ++head) {
        blocks.read_key(layer, place, head, k);
        blocks.read_value(layer, place, head, v);
        k += geometry.head_dim;
        v += geometry.v_head_dim;
      }
    }
  });
}

}  // namespace quire
