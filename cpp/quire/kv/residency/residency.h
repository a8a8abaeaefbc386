// Which blocks of a pool with a backing file are in memory, and which have to go.
//
// A pool has one of two kinds, as it was made: all of its blocks are in memory for good, or the
// system's affair, or there is a limit, resident_bytes. Without one all methods are there and have
// nothing to do: no slab is ever missing. With one:
//
// The unit is a slab: a block in one layer, whole pages of the file.
//
//   slab = layer * num_blocks + block             it lies at slab * block_bytes
//   resident_bytes = window + set aside + kept slabs     at most, the kept being at most capacity()
//
// Kept slabs stay in memory until room is needed: first those of free blocks go, then those of
// blocks that only caches hold, then the others; of each kind the one used longest ago. The window
// is what a BlockStream reads ahead and gives back. What is set aside is for others: the
// rows of open blocks, which lie in memory of their own (open_room.h).
//
// A slab that is not kept can be used all the same: the system then reads it where it is touched.
// So these books never decide what is read, only how fast, and how much memory it takes; they may
// be late, never wrong. Whoever uses blocks outside a stream says so beforehand (keep), and where
// not all could be kept afterwards (settle).
//
// Safe to call from several threads. The lock of these books comes before the pool's, under which
// nothing here may be called.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "quire/kv/ledger/pool_mutex.h"
#include "quire/kv/residency/kv_storage.h"

namespace quire {

class Residency {
 public:
  // Who needs a block.
  enum class Need : std::uint8_t { nobody, caches, holders };
  // Fills in the need of every block.
  using AskNeeds = std::function<void(std::span<Need>)>;
  // Is told of a block that is kept in all layers now, or is not any more, under the lock of these
  // books.
  using Tell = std::function<void(std::int32_t block, bool kept)>;

  // Stretches of a stream that are in memory at once.
  static constexpr std::int64_t kStretches = 4;
  // Tokens that fit into one stretch of a stream, wherever in its first block they begin.
  static constexpr std::int64_t kLeastStretch = 255;

  // Without a limit.
  explicit Residency(const KvStorage& storage);
  // Throws ValueError for resident_bytes below least_bytes(storage) and the least that can be set
  // aside.
  Residency(const KvStorage& storage, std::int64_t resident_bytes, AskNeeds ask_needs, Tell tell,
            std::int64_t least_aside = 0);
  ~Residency();
  Residency(const Residency&) = delete;
  Residency& operator=(const Residency&) = delete;

  // All stretches, and the two blocks of a copy on write in all layers.
  static std::int64_t least_bytes(const KvStorage& storage);

  // Leaves so many of the resident bytes to others from now on, and makes room before; at most
  // most_aside(), which leaves the blocks of a copy on write.
  void set_aside(std::int64_t bytes);
  std::int64_t most_aside() const {
    return (keepable_ - 2 * geometry().num_layers) * storage_.block_bytes();
  }

  const KvGeometry& geometry() const { return storage_.geometry(); }
  bool is_limited() const { return is_limited_; }
  std::int64_t capacity() const;  // slabs that can be kept
  // Of one layer, that can be used at once; without a limit more than any pool has.
  std::int64_t stretch_blocks() const { return window_ / kStretches; }
  std::int64_t kept_bytes() const;         // of all layers
  std::vector<bool> whole_blocks() const;  // kept in all layers, by block
  std::int64_t evictions() const;          // slabs that had to go, ever

  std::int64_t slab(std::int64_t layer, std::int32_t block) const {
    return layer * geometry().num_blocks + block;
  }

  // The slabs of blocks, each once and in order: of one layer, or of all; none without a limit. Ids
  // below 0 are none, and those of open blocks, num_blocks and more, have no slab.
  std::vector<std::int64_t> slabs(std::int64_t layer, std::span<const std::int32_t> blocks) const;
  std::vector<std::int64_t> slabs(std::span<const std::int32_t> blocks) const;

  // Blocks that slabs are of.
  std::int64_t num_blocks(std::vector<std::int64_t> slabs) const;

  // What room may be made of.
  enum class Room : std::uint8_t { of_others, of_free_blocks };

  // Keeps slabs, each named once, as the ones used last, and makes room before; as many as there is
  // room for.
  void keep(std::span<const std::int64_t> slabs, Room room = Room::of_others);

  // The same, and reads those that were not kept and are now, in one go: whoever writes a part of a
  // page has to read it, and a page that is missed is read alone. Returns when they are there: what
  // is still on its way could not be given back.
  void keep_and_bring_in(std::span<const std::int64_t> slabs);

  // Tells of blocks as they are, also where nothing has changed.
  void tell_of(std::span<const std::int32_t> blocks) const;

  // Those that are not kept.
  std::vector<std::int64_t> missing(std::span<const std::int64_t> slabs) const;

  // Gives back the memory of slabs that are not kept.
  void settle(std::span<const std::int64_t> slabs) { give_back(missing(slabs)); }

  // Keeps slabs no longer, and gives their memory back. Returns how many blocks they were of.
  std::int64_t part_with(std::span<const std::int64_t> slabs);
  // The next to go, where they are kept and nobody uses them before.
  void age(std::span<const std::int64_t> slabs);

  // Asks for slabs to be read, or waits for them.
  void ask_for(std::span<const std::int64_t> slabs) const;
  void bring_in(std::span<const std::int64_t> slabs) const;

  // The window, which one stream has at a time. Who waits for it comes before who had it last.
  std::unique_lock<CallMutex> take_window();

  // What is left to do of a stream that ended early.
  class Unfinished {
   public:
    virtual ~Unfinished() = default;
    virtual void finish() noexcept = 0;
  };
  // Has it done by a thread of its own, before the next one has the window and before these books
  // go; where the system has no thread to give, at once. Of who has the window alone.
  void finish_later(std::unique_ptr<Unfinished> work) noexcept;

  // Throws InvariantError where these books contradict themselves.
  void check() const;

 private:
  friend class ResidencyTest;
  static constexpr std::int32_t kNotKept = -1;

  std::vector<PageRange> ranges(std::span<const std::int64_t> slabs) const;
  void give_back(std::span<const std::int64_t> slabs);
  bool is_kept(std::int64_t slab) const { return place_[slab] != kNotKept; }
  void add(std::int64_t slab);
  void remove(std::int64_t slab);
  std::vector<std::int64_t> make_room(std::int64_t wanted, Room room);
  bool is_whole(std::int64_t block) const { return kept_layers_[block] == geometry().num_layers; }

  // Without a limit; that a stretch is of tokens overflows nothing.
  static constexpr std::int64_t kWindowOfAll = kStretches << 31;

  const KvStorage& storage_;
  const bool is_limited_;
  const AskNeeds ask_needs_;
  const Tell tell_;
  std::int64_t window_ = 0;    // slabs
  std::int64_t keepable_ = 0;  // slabs, where nothing is set aside
  CallMutex turn_mutex_;       // had by whoever is next
  CallMutex window_mutex_;
  // A forked child has not the thread, and cannot wait for it.
  struct Finisher {
    std::thread thread;
    std::mutex mutex;  // guards what follows
    std::condition_variable changed;
    bool is_working = false;
  };
  const std::unique_ptr<Finisher, DeleteAtHome> finisher_{new Finisher};
  mutable PoolMutex mutex_;                // guards what follows
  std::vector<std::int32_t> kept_;         // slabs, in no order
  std::vector<std::int32_t> place_;        // of each slab in kept_
  std::vector<std::int64_t> used_;         // when each slab was used last, by clock_
  std::vector<std::int32_t> kept_layers_;  // of each block
  std::int64_t capacity_ = 0;              // slabs
  std::int64_t clock_ = 0;
  std::int64_t evictions_ = 0;
};

}  // namespace quire
