// Blocks that are brought into memory a stretch at a time, for somebody who goes through them in a
// known order: while one stretch is used, the next ones are read, and those before are given back.
// At most Residency::kStretches are in memory, whatever their number: one in use, and enough on
// their way that the disk never waits for the next to be asked for.
//
//   stream.start(stretches);
//   for (i = 0; i < stretches.size(); ++i) { stream.wait_for(i); ...use...; stream.done_with(i); }
//
// Blocks that fit into what the pool keeps, in all layers, move in and stay. Of more than that, as
// many stay as there is room for, and always the same: whoever goes round and round more blocks
// than fit would never find one that is kept by how recently it was used.
//
// For one thread at a time; the next stream of a pool waits until this one is gone. Whoever streams
// for long does it in several, and while one lives calls nobody who may want another.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "quire/kv/residency/residency.h"

namespace quire {

class BlockStream {
 public:
  explicit BlockStream(Residency& residency, std::int64_t layer = 0)
      : residency_(residency), layer_(layer) {}
  // Gives back what the pool does not keep. Goes before it starts, too.
  ~BlockStream();
  BlockStream(const BlockStream&) = delete;
  BlockStream& operator=(const BlockStream&) = delete;

  // The blocks of a stretch, at most; room for Residency::kLeastStretch tokens.
  std::int64_t most_blocks() const { return residency_.stretch_blocks(); }

  // Blocks of each stretch, of the layer; one may be in several. False: all are in memory, and
  // there is nothing to wait for. Called once, or the next in its place.
  bool start(const std::vector<std::vector<std::int32_t>>& stretches);
  // The same of any layers, as slabs in order: to be read once, so that nothing in use leaves for
  // them.
  bool start_once(std::vector<std::vector<std::int64_t>> stretches);

  // Returns when a stretch is in memory; in order. Throws Interrupted.
  void wait_for(std::size_t stretch);
  void done_with(std::size_t stretch);

 private:
  bool start(std::vector<std::vector<std::int64_t>> slabs, bool moves_in);
  void read_ahead() noexcept;
  void give_back() noexcept;
  void start_threads();
  void stop();
  void ask_for(std::size_t stretch);
  void leave(std::size_t stretch);
  void leave_rest();

  Residency& residency_;
  const std::int64_t layer_;
  std::unique_lock<CallMutex> window_;
  std::vector<std::int64_t> all_;                   // slabs
  std::vector<std::vector<std::int64_t>> to_read_;  // slabs of each stretch that are not kept
  std::vector<std::vector<std::int64_t>> to_leave_;
  std::int64_t evictions_ = 0;  // of the pool, when this started
  std::size_t num_begun_ = 0;   // stretches that were asked for; the reader's
  // One asks for stretches and waits for them, the other gives them back: each costs about as much
  // as attention to one query does. None where the system has no threads to give. A forked child
  // cannot wait for them, nor destroy what they wait on.
  struct Threads {
    std::thread reader, giver;
    std::mutex mutex;  // guards what follows
    std::condition_variable changed;
  };
  const std::unique_ptr<Threads, DeleteAtHome> threads_{new Threads};
  std::thread &reader_{threads_->reader}, &giver_{threads_->giver};
  std::mutex& mutex_{threads_->mutex};
  std::condition_variable& changed_{threads_->changed};
  std::size_t num_read_ = 0;
  std::size_t num_done_ = 0;
  std::size_t num_left_ = 0;  // that were given back
  bool stops_ = false;
};

}  // namespace quire
