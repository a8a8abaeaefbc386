// Writing past the caches, for memory that is not read again soon.
//
// On x86-64 whole cache lines are written without being read first, which saves a third of a copy's
// traffic, and do not stay in a cache. Elsewhere these are ordinary copies. A thread sees what it
// wrote; before it tells another that the memory is ready it calls stream_fence().
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace quire {

inline constexpr std::int64_t kLineBytes = 64;

// Bytes from the beginning of a line to p.
inline std::int64_t past_line(const std::byte* p) {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p) % kLineBytes);
}

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)  // which does not see such stores
// Copies a line, to where one begins. All of it is loaded before any is stored: a load waits for an
// earlier store to an address that is the same in its lowest 12 bits, and rows of keys often are.
inline void stream_line(std::byte* to, const std::byte* from) {
  using Quarter [[gnu::vector_size(16)]] = float;
  Quarter a, b, c, d;
  std::memcpy(&a, from, 16);
  std::memcpy(&b, from + 16, 16);
  std::memcpy(&c, from + 32, 16);
  std::memcpy(&d, from + 48, 16);
  const auto quarter = [to](int i) -> Quarter& { return reinterpret_cast<Quarter*>(to)[i]; };
  asm volatile("movntps %4, %0; movntps %5, %1; movntps %6, %2; movntps %7, %3"
               : "=m"(quarter(0)), "=m"(quarter(1)), "=m"(quarter(2)), "=m"(quarter(3))
               : "x"(a), "x"(b), "x"(c), "x"(d));
}

inline void stream_fence() { asm volatile("sfence" : : : "memory"); }
#else
inline void stream_line(std::byte* to, const std::byte* from) {
  std::memcpy(to, from, static_cast<std::size_t>(kLineBytes));
}

inline void stream_fence() {}
#endif

// Copies `bytes` bytes, which do not overlap. Parts of lines at both ends are written as usual.
void stream_copy(std::byte* to, const std::byte* from, std::int64_t bytes);

// A range of memory, written front to back in pieces of any size, by whole lines.
class LineStream {
 public:
  static constexpr std::int64_t kMostBytes = 512;  // of a piece

  explicit LineStream(std::byte* to) : line_(to - past_line(to)), begin_(past_line(to)) {}
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
  void send_lines() {
    const std::int64_t whole = end_ / kLineBytes * kLineBytes;
    std::int64_t at = 0;
    if (begin_ > 0) {  // the first line of all, whose beginning is not ours
      std::memcpy(line_ + begin_, buffer_ + begin_, static_cast<std::size_t>(kLineBytes - begin_));
      begin_ = 0;
      at = kLineBytes;
    }
    for (; at < whole; at += kLineBytes) stream_line(line_ + at, buffer_ + at);
    std::memcpy(buffer_, buffer_ + whole, static_cast<std::size_t>(kLineBytes));  // or less
    line_ += whole;
    end_ -= whole;
  }

  std::byte* line_;            // of memory, where buffer_ begins
  std::int64_t begin_;         // in the buffer, of what is not yet sent,
  std::int64_t end_ = begin_;  // and its end
  alignas(kLineBytes) std::byte buffer_[2 * kMostBytes + kLineBytes];
};

}  // namespace quire
