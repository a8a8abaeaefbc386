// The books of a BlockPool: who holds which block, and how much of it is filled.
//
// Blocks are held by tables, by users through allocate and retain, and by caches. A table counts
// all rows of each of its blocks but the last, of which it counts one or more. For every block b:
//
//   references(b) = users(b) + tables(b) + caches(b)
//   caches(b)     = sum of what the caches of the pool say that they hold
//   pins(b)       = sum of what the caches say that they have pinned     pins(b) <= caches(b)
//   tables(b)     = full(b) + partial(b)            full: tables that count all of b's rows
//   partial(b)    = sum of ends(b, r)               ends: tables that count r rows, r < block_size
//   rows(b)       = block_size                      where full(b) > 0
//                   greatest r with ends(b, r) > 0  where partial(b) > 0 alone
//                   0                               where no table holds b
//   b is in the free list, once, if references(b) = 0, and not at all otherwise
//
// and for the pool:
//
//   num_blocks      = free + used
//   used            = |{b : references(b) > 0}|     used <= peak_used <= num_blocks
//   shared          = |{b : references(b) > 1}|
//   cached          = |{b : references(b) = caches(b) > 0 = pins(b)}|     these b are called idle
//   pinned          = |{b : pins(b) > 0}|
//   reserved_tokens = block_size * |{b : tables(b) > 0}|
//   filled_tokens   = sum of rows(b)
//   wasted_tokens   = reserved_tokens - filled_tokens
//
// So a block counts once however many tables share it, and blocks that only users or caches hold
// count as neither reserved nor filled: what stands in them is not known here.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "quire/base/check.h"
#include "quire/kv/ledger/block_cache.h"
#include "quire/kv/ledger/block_events.h"
#include "quire/kv/ledger/invariants.h"
#include "quire/kv/ledger/open_slots.h"

namespace quire {

struct PoolStats {
  std::int64_t num_blocks = 0;
  std::int64_t free = 0;             // blocks that nobody holds
  std::int64_t used = 0;             // blocks that somebody holds
  std::int64_t shared = 0;           // blocks with more than one reference
  std::int64_t cached = 0;           // blocks that only a prefix cache holds, and may give up
  std::int64_t pinned = 0;           // blocks that a prefix cache has pinned
  std::int64_t reserved_tokens = 0;  // room, in tokens, of the blocks that tables hold
  std::int64_t filled_tokens = 0;    // tokens that tables count there
  std::int64_t wasted_tokens = 0;    // reserved_tokens - filled_tokens
  std::int64_t peak_used = 0;        // the most that was ever used
  std::int64_t copies_on_write = 0;  // shared blocks copied, since the beginning
  // Of a pool, which knows its memory:
  std::int64_t resident_bytes = 0;  // of blocks that are kept in memory
  std::int64_t offloaded = 0;       // blocks in use that are not, or not in all layers
  // Of keys and values in all layers with what they are multiplied by, padding included; of blocks
  // that are not open.
  double bytes_per_token = 0;
  // Of a pool with open blocks, 0 in others:
  std::int64_t open_blocks = 0;  // blocks that are read in full precision (open_slots.h)
  std::int64_t kept_open = 0;    // others whose rows are kept so, for a table that is truncated
};

// Who holds a block, and how much of it.
struct BlockHolders {
  std::int32_t users = 0;  // references of allocate and retain
  std::int32_t tables = 0;
  std::int32_t caches = 0;  // references of prefix caches
  std::int32_t rows = 0;    // the most that a table counts

  std::int32_t references() const { return users + tables + caches; }
};

// Stands in a table for a block that was given back.
inline constexpr std::int32_t kHole = -1;

// For one thread at a time: BlockPool brings the lock. O(1) a block, and stats() O(1) in all.
class BlockLedger {
 public:
  // The most references users can take of one block; what is left to an int32 is for tables and
  // caches, which would fill the memory first.
  static constexpr std::int32_t kMaxUsers = 1 << 30;

  BlockLedger(std::int64_t num_blocks, std::int64_t block_size, bool has_open_slots = false);

  std::int64_t num_blocks() const { return static_cast<std::int64_t>(blocks_.size()); }
  std::int64_t num_free() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t num_used() const { return num_blocks() - num_free(); }
  std::int64_t num_cached() const { return cached_; }
  std::int64_t num_pinned() const { return pinned_; }
  std::int32_t references(std::int32_t block) const { return blocks_[block].references(); }
  BlockHolders holders(std::int32_t block) const {
    const Block& state = blocks_[block];
    return {state.users, state.tables, state.caches, state.rows};
  }
  // Whether only caches hold the block, and none has pinned it.
  bool is_idle(std::int32_t block) const { return blocks_[block].is_idle(); }
  // Whether nobody but caches that have not pinned it, and the one who asks, holds the block.
  bool is_shared_with_caches_alone(std::int32_t block) const {
    const Block& state = blocks_[block];
    return state.references() - state.caches == 1 && state.pins == 0;
  }
  PoolStats stats() const;

  // References of users. Ids are in range. All or nothing: throws ValueError for a block that is
  // free (retain), or of which fewer references than named are a user's (release).
  void give_to_user(std::span<std::int32_t> blocks);  // free blocks; as many must be there
  void retain(std::span<const std::int32_t> ids);
  void release(std::span<const std::int32_t> ids);

  // References of tables. `blocks` are successive ones of a table, full but the last, of which the
  // table counts `last_rows`. Holes are passed over by hold and drop.
  void give_to_table(std::span<std::int32_t> blocks, std::int64_t last_rows);  // free blocks
  void hold(std::span<const std::int32_t> blocks, std::int64_t last_rows);
  void drop(std::span<const std::int32_t> blocks, std::int64_t last_rows);
  // A table that counted `rows` of the block counts `new_rows` from now on.
  void recount(std::int32_t block, std::int64_t rows, std::int64_t new_rows);

  // References of caches, each of which calls join before its first and leave after its last. The
  // block is held by a table when a cache takes it.
  void join(BlockCache& cache) { caches_.push_back(&cache); }
  void leave(BlockCache& cache) noexcept { std::erase(caches_, &cache); }
  void give_to_cache(std::int32_t block);
  void drop_from_cache(std::int32_t block);
  // Pins of caches, on blocks that they hold: such a block is not idle.
  void pin(std::int32_t block) noexcept;
  void unpin(std::int32_t block) noexcept;
  // Makes so many blocks free; num_free() + num_cached() are at least as many.
  void reclaim(std::int64_t num_free) noexcept;
  // Has all caches drop the block, which none has pinned.
  void forget(std::int32_t block) noexcept;

  // Rows of a shared block were copied; those of copy on write are counted.
  void note_copy(std::int32_t from, std::int32_t to) noexcept {
    if (events_ != nullptr) events_->add_copy(from, to);
  }
  void note_copy_on_write(std::int32_t from, std::int32_t to) noexcept {
    ++copies_on_write_;
    note_copy(from, to);
  }
  // A cache is about to drop the block for want of room.
  void note_eviction(std::int32_t block) noexcept {
    if (events_ != nullptr) events_->add(BlockEvent::Kind::evicted, block);
  }

  // Which blocks are open.
  OpenSlots& open_slots() { return open_slots_; }
  const OpenSlots& open_slots() const { return open_slots_; }

  // Where events are written down from now on; null: nowhere.
  void write_events_to(BlockEvents* events) { events_ = events; }

  // Verifies every equation above; throws InvariantError on the first that fails.
  void check() const;

 private:
  friend class BlockLedgerTest;

  struct Block {
    std::int32_t users = 0;
    std::int32_t tables = 0;
    std::int32_t partial = 0;
    std::int32_t rows = 0;
    std::int32_t caches = 0;
    std::int32_t pins = 0;  // no references

    std::int32_t references() const { return users + tables + caches; }
    bool is_idle() const { return caches > 0 && users + tables + pins == 0; }
  };

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  // The equations above, of one block, of all, and what caches say they hold; and those that can be
  // looked at after each change, of the blocks that it was about.
  void check_block(std::int32_t block) const;
  void check_blocks() const;
  void check_caches() const;
  void check_totals() const;
  void check_changed(std::span<const std::int32_t> blocks) const;

  std::int32_t& ends(std::int32_t block, std::int64_t rows) const {
    return ends_[block * block_size_ + rows - 1];
  }
  void add_reference(std::int32_t block, std::int32_t Block::* holders);
  void remove_reference(std::int32_t block, std::int32_t Block::* holders);
  // Events of a whole batch, so that nothing is asked for each block where nobody listens: of
  // blocks that are about to get a reference, and of those freed since so many were free.
  void note_taken(std::span<const std::int32_t> blocks) noexcept;
  void note_freed_since(std::int64_t num_free_before) noexcept;
  void count_rows(std::int32_t block, std::int64_t rows);
  void uncount_rows(std::int32_t block, std::int64_t rows);

  std::int64_t block_size_;
  std::vector<Block> blocks_;
  std::vector<std::int32_t>
      free_;  // a stack: the block used last, still in the CPU's cache, is next
  std::unique_ptr<std::int32_t[], Free> ends_;  // [num_blocks, block_size], by the last row counted
  std::int64_t shared_ = 0;
  std::int64_t cached_ = 0;
  std::int64_t pinned_ = 0;
  std::int64_t held_by_tables_ = 0;
  std::int64_t filled_tokens_ = 0;
  std::int64_t peak_used_ = 0;
  std::int64_t copies_on_write_ = 0;
  std::vector<BlockCache*> caches_;
  BlockEvents* events_ = nullptr;
  OpenSlots open_slots_;
};

}  // namespace quire
