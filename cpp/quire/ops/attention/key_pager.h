// What brings keys and values into memory before they are read, for caches that are not all there.
//
// Attention says beforehand which blocks it will read, a stretch at a time, and goes through them
// in this order:
//
//   if (pager.start(stretches))
//     for (i = 0; i < stretches.size(); ++i) { pager.wait_for(i); ...read...; pager.done_with(i); }
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quire {

class KeyPager {
 public:
  // The blocks of a stretch, at most: those of 255 tokens, wherever they begin, or more.
  virtual std::int64_t most_blocks() const = 0;

  // Begins a pass, the one before being over. False: all is in memory, and there is nothing to wait
  // for.
  virtual bool start(const std::vector<std::vector<std::int32_t>>& stretches) = 0;

  // Returns when a stretch is in memory.
  virtual void wait_for(std::size_t stretch) = 0;
  // The stretch may leave it.
  virtual void done_with(std::size_t stretch) = 0;

 protected:
  KeyPager() = default;
  KeyPager(const KeyPager&) = delete;
  KeyPager& operator=(const KeyPager&) = delete;
  ~KeyPager() = default;
};

}  // namespace quire
