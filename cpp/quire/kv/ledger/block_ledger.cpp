#include "quire/kv/ledger/block_ledger.h"

#include <algorithm>
#include <cassert>
#include <new>
#include <numeric>

namespace quire {

BlockLedger::BlockLedger(std::int64_t num_blocks, std::int64_t block_size, bool has_open_slots)
    : block_size_(block_size),
      blocks_(num_blocks),
      free_(num_blocks),
      // From calloc the zeros cost memory only where blocks are used.
      ends_(static_cast<std::int32_t*>(std::calloc(num_blocks * block_size, sizeof(std::int32_t)))),
      open_slots_(has_open_slots ? num_blocks : 0) {
  if (ends_ == nullptr) throw std::bad_alloc();
  std::iota(free_.rbegin(), free_.rend(), 0);
}

PoolStats BlockLedger::stats() const {
  PoolStats stats;
  stats.num_blocks = num_blocks();
  stats.free = num_free();
  stats.used = num_used();
  stats.shared = shared_;
  stats.cached = cached_;
  stats.pinned = pinned_;
  stats.reserved_tokens = held_by_tables_ * block_size_;
  stats.filled_tokens = filled_tokens_;
  stats.wasted_tokens = stats.reserved_tokens - stats.filled_tokens;
  stats.peak_used = peak_used_;
  stats.copies_on_write = copies_on_write_;
  stats.open_blocks = open_slots_.num_open();
  stats.kept_open = open_slots_.num_used() - stats.open_blocks;
  return stats;
}

// The first reference takes a block from the free list, whose top it must be.
inline void BlockLedger::add_reference(std::int32_t block, std::int32_t Block::* holders) {
  Block& state = blocks_[block];
  if (state.references() == 0) {
    assert(free_.back() == block);
    free_.pop_back();
    peak_used_ = std::max(peak_used_, num_used());
  } else if (state.references() == 1) {
    ++shared_;
  }
  cached_ -= state.is_idle();  // and is not after it: a cache takes no idle block
  ++(state.*holders);
}

// The last reference returns it there. free_ never outgrows its first size, so nothing can throw.
inline void BlockLedger::remove_reference(std::int32_t block, std::int32_t Block::* holders) {
  Block& state = blocks_[block];
  assert(state.*holders > 0);
  const bool was_idle = state.is_idle();
  --(state.*holders);
  if (state.references() == 0) {
    free_.push_back(block);
    open_slots_.note_free(block);
  } else if (state.references() == 1) {
    --shared_;
  }
  cached_ += state.is_idle() - was_idle;
  if (state.is_idle() && !was_idle) {
    for (BlockCache* cache : caches_) cache->note_idle(block);
  }
}

void BlockLedger::note_taken(std::span<const std::int32_t> blocks) noexcept {
  for (const std::int32_t block : blocks) {
    if (block == kHole) continue;
    const bool is_free = references(block) == 0;
    events_->add(is_free ? BlockEvent::Kind::allocated : BlockEvent::Kind::shared, block);
  }
}

void BlockLedger::note_freed_since(std::int64_t num_free_before) noexcept {
  for (auto i = static_cast<std::size_t>(num_free_before); i < free_.size(); ++i) {
    events_->add(BlockEvent::Kind::freed, free_[i]);
  }
}

inline void BlockLedger::count_rows(std::int32_t block, std::int64_t rows) {
  assert(rows >= 1 && rows <= block_size_);
  Block& state = blocks_[block];
  if (rows < block_size_) {
    ++state.partial;
    ++ends(block, rows);
  }
  if (rows > state.rows) {
    filled_tokens_ += rows - state.rows;
    state.rows = static_cast<std::int32_t>(rows);
  }
}

// The block's rows fall to the greatest number that a table still counts.
inline void BlockLedger::uncount_rows(std::int32_t block, std::int64_t rows) {
  Block& state = blocks_[block];
  if (rows < block_size_) {
    --state.partial;
    --ends(block, rows);
  }
  if (state.tables > state.partial) return;
  std::int64_t left = 0;
  if (state.partial > 0) {
    left = std::min<std::int64_t>(state.rows, block_size_ - 1);
    while (ends(block, left) == 0) --left;
  }
  filled_tokens_ -= state.rows - left;
  state.rows = static_cast<std::int32_t>(left);
}

void BlockLedger::give_to_user(std::span<std::int32_t> blocks) {
  assert(static_cast<std::int64_t>(blocks.size()) <= num_free());
  for (std::int32_t& block : blocks) {
    block = free_.back();
    add_reference(block, &Block::users);
  }
  for (std::size_t i = 0; events_ != nullptr && i < blocks.size(); ++i) {
    events_->add(BlockEvent::Kind::allocated, blocks[i]);
  }
  assert(holds([&] { check_changed(blocks); }));
}

void BlockLedger::retain(std::span<const std::int32_t> ids) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Block& state = blocks_[ids[i]];
    if (state.references() > 0 && state.users < kMaxUsers) {
      add_reference(ids[i], &Block::users);
      continue;
    }
    const bool is_free = state.references() == 0;
    for (std::size_t j = i; j-- > 0;) remove_reference(ids[j], &Block::users);
    if (is_free) {
      raise<ValueError>("BlockPool.retain: ids", "got block ", ids[i], " at index ", i,
                        ", which is free, expected a block in use");
    }
    raise<ValueError>("BlockPool.retain: ids", "got block ", ids[i], " at index ", i,
                      ", expected at most ", kMaxUsers, " references to a block");
  }
  if (events_ != nullptr) note_taken(ids);
  assert(holds([&] { check_changed(ids); }));
}

void BlockLedger::release(std::span<const std::int32_t> ids) {
  const std::int64_t before = num_free();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (blocks_[ids[i]].users > 0) {
      remove_reference(ids[i], &Block::users);
      continue;
    }
    // Backwards, so that each block to be taken back is the top of the free list.
    for (std::size_t j = i; j-- > 0;) add_reference(ids[j], &Block::users);
    const Block& state = blocks_[ids[i]];
    if (state.users > 0) {
      raise<ValueError>("BlockPool.release: ids", "got block ", ids[i], " again at index ", i,
                        ", expected it no more often than its references: ", state.users);
    }
    raise<ValueError>("BlockPool.release: ids", "got block ", ids[i], " at index ", i,
                      state.tables > 0 ? ", which only tables hold" : ", which is free",
                      ", expected a block that was allocated or retained");
  }
  if (events_ != nullptr) note_freed_since(before);
  assert(holds([&] { check_changed(ids); }));
}

void BlockLedger::give_to_table(std::span<std::int32_t> blocks, std::int64_t last_rows) {
  assert(static_cast<std::int64_t>(blocks.size()) <= num_free());
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    blocks[i] = free_.back();
    hold(blocks.subspan(i, 1), i + 1 < blocks.size() ? block_size_ : last_rows);
  }
  assert(holds([&] { check_changed(blocks); }));
}

void BlockLedger::hold(std::span<const std::int32_t> blocks, std::int64_t last_rows) {
  if (events_ != nullptr) note_taken(blocks);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i] == kHole) continue;
    held_by_tables_ += blocks_[blocks[i]].tables == 0;
    add_reference(blocks[i], &Block::tables);
    count_rows(blocks[i], i + 1 < blocks.size() ? block_size_ : last_rows);
  }
  assert(holds([&] { check_changed(blocks); }));
}

// Backwards, so that the next table is given the same blocks in the same order.
void BlockLedger::drop(std::span<const std::int32_t> blocks, std::int64_t last_rows) {
  const std::int64_t before = num_free();
  for (std::size_t i = blocks.size(); i-- > 0;) {
    if (blocks[i] == kHole) continue;
    remove_reference(blocks[i], &Block::tables);
    uncount_rows(blocks[i], i + 1 < blocks.size() ? block_size_ : last_rows);
    held_by_tables_ -= blocks_[blocks[i]].tables == 0;
  }
  if (events_ != nullptr) note_freed_since(before);
  assert(holds([&] { check_changed(blocks); }));
}

void BlockLedger::recount(std::int32_t block, std::int64_t rows, std::int64_t new_rows) {
  count_rows(block, new_rows);
  uncount_rows(block, rows);
  assert(holds([&] { check_changed({&block, 1}); }));
}

void BlockLedger::give_to_cache(std::int32_t block) {
  assert(blocks_[block].references() > blocks_[block].caches);
  if (events_ != nullptr) note_taken({&block, 1});
  add_reference(block, &Block::caches);
  assert(holds([&] { check_changed({&block, 1}); }));
}

void BlockLedger::drop_from_cache(std::int32_t block) {
  const std::int64_t before = num_free();
  remove_reference(block, &Block::caches);
  if (events_ != nullptr) note_freed_since(before);
  assert(holds([&] { check_changed({&block, 1}); }));
}

void BlockLedger::pin(std::int32_t block) noexcept {
  Block& state = blocks_[block];
  assert(state.pins < state.caches);
  cached_ -= state.is_idle();
  pinned_ += state.pins == 0;
  ++state.pins;
}

void BlockLedger::unpin(std::int32_t block) noexcept {
  Block& state = blocks_[block];
  assert(state.pins > 0);
  --state.pins;
  pinned_ -= state.pins == 0;
  if (!state.is_idle()) return;
  ++cached_;
  for (BlockCache* cache : caches_) cache->note_idle(block);
}

void BlockLedger::reclaim(std::int64_t num_wanted) noexcept {
  assert(num_wanted <= num_free() + num_cached());
  for (BlockCache* cache : caches_) {
    if (num_free() >= num_wanted) return;
    cache->reclaim(num_wanted);
  }
  assert(num_free() >= num_wanted);
  assert(holds([&] { check_changed({}); }));
}

void BlockLedger::forget(std::int32_t block) noexcept {
  assert(blocks_[block].pins == 0);
  for (BlockCache* cache : caches_) cache->forget(block);
  assert(blocks_[block].caches == 0);
  assert(holds([&] { check_changed({&block, 1}); }));
}

namespace {

template <class... Where>
void expect_equal(const char* what, std::int64_t got, std::int64_t expected,
                  const Where&... where) {
  if (got == expected) return;
  raise<InvariantError>(place("BlockPool.check", what), "got ", got, where..., ", expected ",
                        expected);
}

}  // namespace

void BlockLedger::check() const {
  check_blocks();
  check_totals();
  check_caches();
}

void BlockLedger::check_blocks() const {
  std::vector<bool> is_free(blocks_.size(), false);
  for (const std::int32_t block : free_) {
    if (block < 0 || block >= num_blocks()) {
      raise<InvariantError>("BlockPool.check: free list", "got block ", block, ", expected 0 to ",
                            num_blocks() - 1);
    }
    expect_equal("times in the free list", is_free[block] + 1, 1, " for block ", block);
    is_free[block] = true;
  }
  for (std::int32_t block = 0; block < num_blocks(); ++block) {
    check_block(block);
    expect_equal("times in the free list", is_free[block], blocks_[block].references() == 0,
                 " for block ", block);
  }
  open_slots_.check();
}

// A cache that takes or drops a block is in the middle of a change of its own, and checks itself
// when that is done. All in all the numbers of a pool are in bounds, whatever is large.
void BlockLedger::check_changed(std::span<const std::int32_t> blocks) const {
  if (num_blocks() * block_size_ <= kSmallBooks) {
    check_blocks();
    return check_totals();
  }
  for (const std::int32_t block : blocks) {
    if (block != kHole) check_block(block);
  }
  const auto expect_up_to = [](const char* what, std::int64_t count, std::int64_t most) {
    if (count >= 0 && count <= most) return;
    raise<InvariantError>(place("BlockPool.check", what), "got ", count, ", expected 0 to ", most);
  };
  expect_up_to("shared", shared_, num_used());
  expect_up_to("cached", cached_, num_used());
  expect_up_to("blocks of tables", held_by_tables_, num_used());
  expect_up_to("filled_tokens", filled_tokens_, held_by_tables_ * block_size_);
  expect_up_to("used", num_used(), peak_used_);
}

void BlockLedger::check_caches() const {
  std::vector<std::int32_t> held(blocks_.size(), 0), pinned(blocks_.size(), 0);
  for (const BlockCache* cache : caches_) cache->check(held, pinned);
  for (std::int32_t block = 0; block < num_blocks(); ++block) {
    expect_equal("references of caches", blocks_[block].caches, held[block], " for block ", block);
    expect_equal("pins", blocks_[block].pins, pinned[block], " for block ", block);
  }
}

void BlockLedger::check_block(std::int32_t block) const {
  const Block& state = blocks_[block];
  const auto expect_non_negative = [block](const char* what, std::int64_t count) {
    if (count < 0) {
      raise<InvariantError>(place("BlockPool.check", what), "got ", count, " for block ", block,
                            ", expected >= 0");
    }
  };
  expect_non_negative("users", state.users);
  expect_non_negative("tables", state.tables);
  expect_non_negative("caches", state.caches);
  expect_non_negative("tables that hold all rows", state.tables - state.partial);
  std::int64_t partial = 0;
  std::int64_t rows = 0;
  for (std::int64_t r = 1; r < block_size_; ++r) {
    const std::int32_t count = ends(block, r);
    expect_non_negative("tables that end in a row", count);
    partial += count;
    if (count > 0) rows = r;
  }
  if (state.tables > state.partial) rows = block_size_;
  expect_equal("tables that hold some rows", state.partial, partial, " for block ", block);
  expect_equal("rows", state.rows, rows, " for block ", block);
  open_slots_.check(block, holders(block));
}

void BlockLedger::check_totals() const {
  std::int64_t used = 0;
  std::int64_t shared = 0;
  std::int64_t cached = 0;
  std::int64_t pinned = 0;
  std::int64_t held_by_tables = 0;
  std::int64_t filled_tokens = 0;
  for (const Block& state : blocks_) {
    used += state.references() > 0;
    shared += state.references() > 1;
    cached += state.is_idle();
    pinned += state.pins > 0;
    held_by_tables += state.tables > 0;
    filled_tokens += state.rows;
  }
  expect_equal("used", num_used(), used);
  expect_equal("shared", shared_, shared);
  expect_equal("cached", cached_, cached);
  expect_equal("pinned", pinned_, pinned);
  expect_equal("reserved_tokens", held_by_tables_ * block_size_, held_by_tables * block_size_);
  expect_equal("filled_tokens", filled_tokens_, filled_tokens);
  if (peak_used_ < used || peak_used_ > num_blocks()) {
    raise<InvariantError>("BlockPool.check: peak_used", "got ", peak_used_, ", expected ", used,
                          " to ", num_blocks());
  }
}

}  // namespace quire
