// What happens to the blocks of a pool, for whoever listens.
//
//   allocated   blocks that were free have their first reference
//   shared      blocks in use have one reference more, of a table, a user or a cache
//   copied      {from, to}: rows of a block, shared or sealed, were copied, for a table to write
//               after them
//   evicted     a prefix cache gave a block up, for want of room or asked to; not by clear()
//   offloaded   blocks in use are not kept in memory any more, or found no room there
//   restored    blocks in use that were offloaded are kept in memory again
//   freed       blocks have lost their last reference
//
// So the blocks in use are those allocated and not freed since, and of a pool with resident_bytes
// those of them are not kept in memory, in all layers, that were offloaded and not restored since.
// A call that is refused may name blocks that it took and gave back.
//
// Events are written down under the pool's lock, in order, and delivered when the call that made
// them has let go of every lock, by whichever thread comes first: it goes on until none is left,
// and no other delivers meanwhile. So a listener may use pools, tables and caches; what comes of it
// is delivered after it returns.
#pragma once

#include <cstdint>
#include <unordered_set>
#include <vector>

namespace quire {

struct BlockEvent {
  enum class Kind { allocated, shared, copied, evicted, offloaded, restored, freed };

  Kind kind = Kind::allocated;
  std::vector<std::int32_t> blocks;
};

class BlockListener {
 public:
  virtual ~BlockListener() = default;
  virtual void hear(const BlockEvent& event) noexcept = 0;
};

// Events that wait for their delivery. Under the pool's lock.
class BlockEvents {
 public:
  // Joins those of the same kind that follow each other. Where memory has run out, an event is lost
  // rather than the pool broken.
  void add(BlockEvent::Kind kind, std::int32_t block) noexcept;
  void add_copy(std::int32_t from, std::int32_t to) noexcept;
  // offloaded or restored, where that is news.
  void add_move(BlockEvent::Kind kind, std::int32_t block) noexcept;

  bool empty() const { return events_.empty(); }
  void clear() noexcept {
    events_.clear();
    offloaded_.clear();
  }
  void swap(std::vector<BlockEvent>& events) noexcept { events_.swap(events); }

 private:
  std::vector<BlockEvent> events_;
  std::unordered_set<std::int32_t> offloaded_;  // blocks in use, by what was told
};

}  // namespace quire
