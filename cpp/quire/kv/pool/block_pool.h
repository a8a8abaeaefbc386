// A pool of equally large blocks of keys and values, and who holds them.
//
// A block is in use while it has references, and free otherwise: allocate gives a reference, retain
// adds one, release takes one back, and every BlockTable and PrefixCache has one to each of its
// blocks. Where fewer blocks are free than are asked for, caches part with those that nobody else
// holds, in the same step. What holds at all times stands, as equations, in block_ledger.h.
//
// Every method is safe to call from several threads. The pool's lock guards its caches too, and is
// the innermost: no other is taken under it, and no keys or values are moved under it. What happens
// to blocks is told to a listener, if there is one, after all locks (block_events.h).
//
// Blocks of int4, and of other quantised pools if they are to be, are written in full precision
// first, and sealed later: see open_blocks.h. The lock of those who seal comes before those of the
// residency and the pool.
//
// Whether blocks are written open, and whether all of them are in memory, is settled when a pool is
// made: open_blocks(), open_room() and residency() are there in every pool, and where the answer is
// the plain one they have nothing to do.
//
// With a backing file, blocks lie in a file of any size, and at most resident_bytes of them in
// memory: see residency.h for which, and block_stream.h for how the others are read. Open rows are
// among these bytes (open_room.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"
#include "quire/kv/ledger/block_events.h"
#include "quire/kv/ledger/block_ledger.h"
#include "quire/kv/ledger/event_teller.h"
#include "quire/kv/ledger/pool_mutex.h"
#include "quire/kv/pool/asked.h"
#include "quire/kv/pool/open_blocks.h"
#include "quire/kv/pool/open_room.h"
#include "quire/kv/residency/kv_storage.h"
#include "quire/kv/residency/residency.h"

namespace quire {

// Where blocks lie that do not fit into memory.
struct BackingFile {
  std::string path;                            // of a file that is made, block_memory.h says how
  std::optional<std::int64_t> resident_bytes;  // none: the system decides what is in memory
};

class BlockPool {
 public:
  // Throws ValueError for a size out of range, OutOfMemory where the system refuses.
  explicit BlockPool(const KvGeometry& geometry) : BlockPool(geometry, {}) {}
  // In a file, or where its path is empty in memory. Throws FileError, and ValueError for
  // resident_bytes that are too few, or come without a file.
  BlockPool(const KvGeometry& geometry, const BackingFile& file);

  // The process that made it. In another, forked from it, everything that uses the pool, its tables
  // or its caches throws OtherProcess, but for these three accessors; to destroy them does nothing.
  const PoolHome& home() const { return home_; }

  const KvGeometry& geometry() const { return storage_.geometry(); }
  const KvStorage& storage() const { return storage_; }
  // Where rows are in full precision, if blocks are opened.
  OpenBlocks& open_blocks() { return open_blocks_; }
  const OpenBlocks& open_blocks() const { return open_blocks_; }

  // n free blocks, the one freed last first, with one reference each. Throws OutOfBlocks where
  // fewer are free or cached, ValueError for n < 0, FileError once the file could not be written.
  std::vector<std::int32_t> allocate(std::int64_t n = 1);

  // One reference more, or fewer, for each id; an id named twice counts twice. All or nothing:
  // throws IndexError for an unknown id, ValueError for a free block, or for one of which fewer
  // references than named were given out by allocate and retain: those of tables are the tables'.
  void retain(const IndexView& ids);
  void release(const IndexView& ids);
  void retain(std::span<const std::int32_t> ids) { retain(view(ids)); }
  void release(std::span<const std::int32_t> ids) { release(view(ids)); }

  // References to each block, [num_blocks], and to one; throws IndexError for an unknown id.
  std::vector<std::int32_t> ref_counts() const;
  std::int32_t ref_count(std::int64_t id) const;

  std::int64_t num_free() const;
  std::int64_t num_used() const;
  // O(1); O(num_blocks) with a backing file.
  PoolStats stats() const;

  // Makes the rows of blocks those of their dtype, where they are not yet; holes are passed over.
  // The caller reads them open, and nobody may write them meanwhile. As for what is appended to
  // other pools, their tiles are kept in memory from now on, as far as they fit.
  void seal(std::span<const std::int32_t> blocks) noexcept;
  // What does so from now on (open_blocks.h), where blocks stay open.
  void seal_with(const SealFunctions& functions, int num_threads) {
    open_blocks_.seal_with(functions, num_threads);
  }
  // Memory for open rows, which may be limited.
  OpenRoom& open_room() const { return *open_room_; }

  // Copies rows of any block, by its id, to one that is being written: open, or of a pool that
  // opens none. In every layer, or in one; of a whole block its first rows are needed.
  void copy_block(std::int32_t from, std::int32_t to, std::int64_t rows) const;
  void copy_rows(RowPlace from, RowPlace to, std::int64_t rows) const;
  void copy_rows(std::int64_t layer, RowPlace from, RowPlace to, std::int64_t rows) const {
    if (open_blocks_.is_open(to.block)) return open_blocks_.copy_rows(layer, from, to, rows);
    storage_.copy_rows(layer, from, to, rows);
  }

  // What is in memory. Also of a pool that is only read: to read may bring blocks in.
  Residency& residency() const { return *residency_; }
  // Keeps blocks in memory from now on, in all layers, as far as they fit; before they are used.
  // Memory of the others is given back.
  void keep_resident(std::span<const std::int32_t> blocks) noexcept {
    if (residency_->is_limited()) keep_some_resident(blocks);
  }
  // After they were used: gives memory back that they are not kept in.
  void settle(std::span<const std::int32_t> blocks) noexcept {
    if (residency_->is_limited()) settle_some(blocks);
  }
  // Tells who listens whether blocks are in memory, where that has changed.
  void tell_of(std::span<const std::int32_t> blocks) const noexcept {
    if (is_listened_to_.load(std::memory_order_relaxed)) tell_of_some(blocks);
  }
  // Calls visit(first, last) for all columns of `blocks` in stretches that are in memory.
  void read_in_order(std::int64_t layer, std::span<const std::int32_t> blocks,
                     const std::function<void(std::size_t, std::size_t)>& visit) const;
  // Blocks of one layer that are used together: with resident_bytes at most
  // residency().stretch_blocks().
  struct Step {
    std::int64_t layer;
    std::vector<std::int32_t> blocks;
  };
  // Calls use(i) for each step in its turn, when its blocks are in memory; as one stream, so that
  // `use` calls nobody who streams. Nothing in use leaves memory for what is used but once.
  void use_in_order(std::span<const Step> steps, const std::function<void(std::size_t)>& use) const;
  // Whether each block is in memory, in all layers, [num_blocks], as those are whose rows are open;
  // and whether only caches hold it.
  std::vector<bool> resident_blocks() const;
  std::vector<bool> cached_blocks() const;

  // Who hears of every event from now on (block_events.h); null: nobody. Returns who did so far,
  // and may yet hear of events that another thread is delivering.
  std::shared_ptr<BlockListener> set_listener(std::shared_ptr<BlockListener> listener);

  // Delivers events when it goes: made before any lock is taken. Costs a look at a flag where
  // nobody listens.
  class Delivery {
   public:
    explicit Delivery(BlockPool& pool) : pool_(pool) {}
    ~Delivery() {
      if (pool_.is_listened_to_.load(std::memory_order_relaxed) ||
          pool_.has_tellers_.load(std::memory_order_relaxed)) {
        pool_.deliver_events();
      }
    }
    Delivery(const Delivery&) = delete;
    Delivery& operator=(const Delivery&) = delete;

   private:
    BlockPool& pool_;
  };

  // Verifies the books; throws InvariantError on the first equation that fails. O(slots).
  void check() const;

 private:
  friend class BlockTable;
  friend class OpenColumns;
  friend class OpenRoom;
  friend class PrefixCache;
  friend class Savepoint;

  // The ledger, locked while this lives.
  class Books {
   public:
    explicit Books(BlockPool& pool) : lock_(pool.mutex_), ledger_(pool.ledger_) {}
    BlockLedger* operator->() const { return &ledger_; }
    BlockLedger& ledger() const { return ledger_; }

    // Whether so many blocks are free, or can be.
    bool can_free(std::int64_t blocks) const {
      return blocks <= ledger_.num_free() + ledger_.num_cached();
    }

    // What a request for blocks can be served of, for the message where it is too little; pinned
    // blocks stand beside it.
    std::string most_blocks() const;

    // Makes `blocks` blocks free, which what is asked for takes. Throws OutOfBlocks, naming that,
    // where caches cannot help either, and leaves them alone then. Here alone does a pool run out.
    void require_free(std::int64_t blocks, const Asked& asked) const;

   private:
    std::lock_guard<PoolMutex> lock_;
    BlockLedger& ledger_;
  };

  static IndexView view(std::span<const std::int32_t> ids) {
    return contiguous_index_view(ids.data(), {static_cast<std::int64_t>(ids.size())});
  }
  std::vector<std::int32_t> checked_ids(const IndexView& ids, std::string_view function) const;

  std::unique_ptr<Residency> make_residency(const BackingFile& file);
  void keep_some_resident(std::span<const std::int32_t> blocks) noexcept;
  void settle_some(std::span<const std::int32_t> blocks) noexcept;
  void tell_of_some(std::span<const std::int32_t> blocks) const noexcept;
  // Whose events are told with the pool's own, each once.
  void join(const Books& books, const std::shared_ptr<EventTeller>& teller);
  void leave(const Books& books, const EventTeller& teller) noexcept;

  void deliver_events() noexcept;
  void ask_needs(std::span<Residency::Need> needs) const;
  void note_move(std::int32_t block, bool kept) noexcept;
  // Of a block in use; under the pool's lock.
  bool is_open_alone(std::int32_t block) const { return !ledger_.open_slots().is_sealed(block); }
  // Blocks that are sealed in one go.
  static constexpr std::size_t kSealedAtOnce = 64;
  void seal_together(std::span<const std::int32_t> blocks) noexcept;  // so many at most

  const PoolHome home_;
  KvStorage storage_;
  OpenBlocks open_blocks_;
  std::unique_ptr<Residency> residency_;  // behind a pointer, as it is used by who only reads
  std::atomic<bool> is_listened_to_ = false;
  std::atomic<bool> has_tellers_ = false;
  mutable PoolMutex mutex_;
  struct Guarded {
    BlockLedger ledger;
    BlockEvents events;
    std::shared_ptr<BlockListener> listener;
    std::vector<std::shared_ptr<EventTeller>> tellers;
  };
  const std::unique_ptr<Guarded, DeleteAtHome> guarded_;
  BlockLedger& ledger_;
  std::unique_ptr<OpenRoom> open_room_;
  BlockEvents& events_;
  std::shared_ptr<BlockListener>& listener_;
  bool is_delivering_ = false;  // a thread is, and will find what is added
};

}  // namespace quire
