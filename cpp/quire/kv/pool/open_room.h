// How much memory the open rows of a pool with resident_bytes take, which is a part of these bytes.
//
//   resident_bytes = window + open slots + kept slabs       at most (residency.h)
//
// Open slots come first, and kept slabs have what they leave; the blocks of a copy on write are
// always left to them. A call that opens blocks claims their slots before it takes a block, so that
// it is refused before anything has changed; slots of others may close meanwhile, and none opens
// without a claim:
//
//   used + claimed <= most()            when a claim is made
//   set aside = max(in memory, used + claimed)     then, and when one is given up
//
// What a call has opened counts in both until it is done, so that of calls at the same time the
// later may be refused a little early. Slots that nobody uses keep their memory where they are few,
// as the next block to be opened is another table's; that of the others is given back.
//
// Of a pool without resident_bytes, or one that opens no blocks, there is no limit, and nothing
// here to do: a claim has what it wants.
//
// Safe to call from several threads. The lock of this comes after those of tables, and before those
// of the residency and the pool.
#pragma once

#include <cstdint>

#include "quire/kv/ledger/open_slots.h"
#include "quire/kv/ledger/pool_mutex.h"
#include "quire/kv/pool/asked.h"
#include "quire/kv/residency/kv_storage.h"

namespace quire {

class BlockPool;

class OpenRoom {
 public:
  // Of a pool, which outlives this, and whose open blocks and residency are there already.
  explicit OpenRoom(BlockPool& pool);

  // What the last blocks of one table take, with those of tokens that may be taken back, as it is
  // and as it will be when it has grown; the next one, and a copy.
  static std::int64_t least_slots(const KvGeometry& geometry) {
    return 2 * most_pinned(geometry.block_size, geometry.num_open()) + 2;
  }
  bool is_limited() const { return is_limited_; }
  // Slots that claims can have in all, and one now; without a limit more than there are.
  std::int64_t most() const { return most_; }
  std::int64_t left();

  // Slots that a call may have opened more than there were, while this lives.
  class Claim {
   public:
    // Without a limit `most`. Otherwise as many as there are, at most `most`; throws OutOfBlocks
    // for fewer than `least`.
    Claim(OpenRoom& room, const Asked& asked, std::int64_t least, std::int64_t most);
    Claim() = default;  // of nothing
    ~Claim() {
      if (room_ != nullptr) give_up();
    }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

    std::int64_t slots() const { return slots_; }

   private:
    void give_up() noexcept;

    OpenRoom* const room_ = nullptr;  // where something is to be given up
    std::int64_t slots_ = 0;
  };

  // Gives back the memory of slots that nobody uses any more.
  void settle() noexcept {
    if (is_limited_) settle_limited();
  }

  // Throws InvariantError where more memory is used than was set aside.
  void check();

 private:
  // Unused slots that keep their memory.
  static constexpr std::int64_t kUnused = 8;

  // Slots, as they are at this moment: of blocks, and all that take memory.
  struct Slots {
    std::int64_t used, in_memory;
  };
  Slots look() const;
  std::int64_t left(Slots slots) const;
  std::int64_t claim(const Asked& asked, std::int64_t least, std::int64_t most);
  void settle_limited() noexcept;
  void settle_locked() noexcept;
  void set_aside(Slots slots);

  BlockPool& pool_;
  const bool is_limited_;
  const std::int64_t most_;  // slots
  PoolMutex mutex_;          // guards what follows
  std::int64_t claimed_ = 0;
  std::int64_t aside_ = 0;  // slots
};

}  // namespace quire
