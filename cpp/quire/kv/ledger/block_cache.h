// What keeps blocks that nobody needs at the moment, and parts with them when the pool runs out.
//
// A block is idle while only caches hold it and none of them has pinned it. The books of a pool
// call these methods, under the pool's lock, so that running out and giving back are one step.
#pragma once

#include <cstdint>
#include <vector>

namespace quire {

class BlockCache {
 public:
  // The last table or user has let go of a block that a cache, maybe this one, holds, or the last
  // pin is gone.
  virtual void note_idle(std::int32_t block) noexcept = 0;

  // Drops idle blocks, those used least recently first, until `num_free` are free in the pool or
  // none idle is left here.
  virtual void reclaim(std::int64_t num_free) noexcept = 0;

  // Drops a block, if it is here, idle or not. It is not pinned.
  virtual void forget(std::int32_t block) noexcept = 0;

  // Verifies itself, throws InvariantError where that fails, and adds the references that it has to
  // each block to held [num_blocks], and its pins to pinned [num_blocks].
  virtual void check(std::vector<std::int32_t>& held, std::vector<std::int32_t>& pinned) const = 0;

 protected:
  BlockCache() = default;
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;
  ~BlockCache() = default;
};

}  // namespace quire
