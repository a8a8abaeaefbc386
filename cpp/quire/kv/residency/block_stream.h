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

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "quire/kv/residency/residency.h"

namespace quire {

class BlockStream {
 public:
  explicit BlockStream(Residency& residency, std::int64_t layer = 0);
  // Gives back what the pool does not keep: where all stretches were used, before this returns; of
  // a stream that is left early, later, as what is still being read cannot be given back, and a
  // call that is to end need not wait for it. Goes before it starts, too.
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
  bool start_once(const std::vector<std::vector<std::int64_t>>& stretches);

  // Returns when a stretch is in memory; in order. Throws Interrupted.
  void wait_for(std::size_t stretch);
  void done_with(std::size_t stretch);

 private:
  class Work;

  bool start(const std::vector<std::vector<std::int64_t>>& slabs, bool moves_in);

  Residency& residency_;
  const std::int64_t layer_;
  std::unique_lock<CallMutex> window_;
  // What threads share: it lives on where they do (Residency::finish_later). A forked child cannot
  // wait for them, nor destroy what they wait on.
  std::unique_ptr<Work, DeleteAtHome> work_;
};

}  // namespace quire
