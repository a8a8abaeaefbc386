// Writing past the caches, for memory that is not read again soon.
//
// On x86-64 whole cache lines are written without being read first, which saves a third of a copy's
// traffic, and do not stay in a cache. Elsewhere these are ordinary copies. A thread sees what it
// wrote; before it tells another that the memory is ready it calls stream_fence().
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

// Copies `bytes` bytes, which do not overlap. Parts of lines at both ends are written as usual.
void stream_copy(std::byte* to, const std::byte* from, std::int64_t bytes);

// Copies `count` rows of `bytes` bytes, `stride` apart in `from`, next to each other.
void stream_rows(std::byte* to, const std::byte* from, std::int64_t stride, std::int64_t count,
                 std::int64_t bytes);

void stream_fence();

// A stretch of memory, written front to back in pieces of any size and length by whole lines.
class LineStream {
 public:
  static constexpr std::int64_t kMostBytes = 256;  // of a piece

  explicit LineStream(std::byte* to);
  ~LineStream() { stream_copy(line_ + begin_, buffer_ + begin_, end_ - begin_); }
  LineStream(const LineStream&) = delete;
  LineStream& operator=(const LineStream&) = delete;

  // Where the caller puts the next piece, before it asks again.
  std::byte* next(std::int64_t bytes) {
    if (end_ >= kMostBytes) send_lines();
    std::byte* const place = buffer_ + end_;
    end_ += bytes;
    return place;
  }

 private:
  void send_lines();

  std::byte* line_;           // of memory, where buffer_ begins
  std::int64_t begin_, end_;  // of what is in the buffer and not yet sent
  alignas(64) std::byte buffer_[2 * kMostBytes];
};

}  // namespace quire
