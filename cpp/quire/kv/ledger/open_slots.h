// The books of a pool about the rows it has in full precision: of which blocks, where, and for
// whom.
//
//   in a slot   a block whose rows lie in a slot of OpenBlocks, as plain floats
//   sealed      a block whose rows lie in its tile, quantised
//
// Every block in use is one of them, or both: while a table still reads what it had open, or may
// have to again (column_history.h). With references(b), tables(b) and caches(b) of block_ledger.h,
// for every block b:
//
//   slot(b)          where it is, or none; of blocks with one, all different
//   pins(b)          tables that may read it there
//   readers(b)       those that do now              readers(b) <= pins(b) <= tables(b)
//   is_sealed(b)     its tile is what its rows became
//   open             |{b : readers(b) > 0 or not is_sealed(b)}|
//
//   slot(b) = none   exactly where pins(b) = 0 and is_sealed(b)
//   references(b) = 0   =>  slot(b) = none
//   caches(b) > 0       =>  is_sealed(b)
//
// A block of a user counts as sealed: whoever allocates one writes its tile. So does every block of
// a pool that opens none, whose books are these with no blocks in them.
//
// Slots below num_touched are of blocks, unused, leaving or cleared, each one of them: unused ones
// still have memory, and are the next to be opened; of those that are leaving it is being given
// back, for which nobody holds a lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quire {

struct BlockHolders;

// So many tokens can be taken back from a table to the bit: for so long blocks that it has sealed
// stay in their slots.
inline constexpr std::int64_t kTokensToTakeBack = 64;

// The blocks that a table pins at once, where it grows by append and its last `stay` blocks stay
// open.
inline std::int64_t most_pinned(std::int64_t block_size, std::int64_t stay) {
  return stay + (kTokensToTakeBack + block_size - 1) / block_size;
}

// For one thread at a time, as a part of the ledger. Nothing throws but the constructor and check.
class OpenSlots {
 public:
  static constexpr std::int32_t kNone = -1;

  // Of a pool of so many blocks; 0: of one that opens none.
  explicit OpenSlots(std::int64_t num_blocks);

  std::int64_t num_open() const { return num_open_; }
  // Slots of blocks: of those that are open, and of those that may be again.
  std::int64_t num_used() const { return num_in_memory() - std::ssize(unused_); }
  // With those that are not used, but have their memory yet.
  std::int64_t num_in_memory() const {
    return num_touched_ - std::ssize(leaving_) - std::ssize(cleared_);
  }
  std::int32_t slot(std::int32_t block) const { return blocks_[block].slot; }
  bool is_sealed(std::int32_t block) const { return blocks_.empty() || blocks_[block].is_sealed; }

  // For the one table that holds the block and is about to write it: opens it, if it has not, with
  // a pin, and returns its slot; what lies in the tile counts no more.
  std::int32_t open(std::int32_t block);
  void write(std::int32_t block);  // which it reads open

  // One table more, or fewer, that may read a block in its slot, and does so or not.
  void pin(std::int32_t block, bool reads);
  void unpin(std::int32_t block, bool reads);
  // A table that has a pin does so no longer, or again.
  void stop_reading(std::int32_t block);
  void read_again(std::int32_t block);
  void note_sealed(std::int32_t block);
  // Its last reference is gone.
  void note_free(std::int32_t block) {
    if (!blocks_.empty()) note_free_of_some(block);
  }

  // Unused slots whose memory is to be given back, all but the `stay` used last, some at a time;
  // nobody has them until note_cleared. For one at a time.
  std::span<const std::int32_t> take_unused(std::int64_t stay);
  void note_cleared();

  // Throws InvariantError on the first equation that fails, of one block and of all together.
  void check(std::int32_t block, const BlockHolders& holders) const;
  void check() const;

 private:
  friend class OpenSlotsTest;

  struct Block {
    std::int32_t slot = kNone;
    std::int32_t pins = 0;
    std::int32_t readers = 0;
    bool is_sealed = true;

    bool is_open() const { return readers > 0 || !is_sealed; }
  };

  // Calls change(block), and keeps count of those that are open.
  template <class Change>
  void change(std::int32_t block, Change change);
  void close_if_unused(Block& block);
  void note_free_of_some(std::int32_t block);
  // What can be looked at after each change, without who holds the block.
  void check_changed(const Block& block) const;

  static constexpr std::size_t kLeaveAtOnce = 64;

  std::vector<Block> blocks_;
  std::vector<std::int32_t> unused_;  // a stack of slots, the one used last on top
  std::vector<std::int32_t> leaving_, cleared_;
  std::int64_t num_open_ = 0;
  std::int64_t num_touched_ = 0;  // slots below it have been used
};

}  // namespace quire
