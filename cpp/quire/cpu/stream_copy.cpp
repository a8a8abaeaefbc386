#include "quire/cpu/stream_copy.h"

#include <algorithm>
#include <cstring>

namespace quire {
namespace {

constexpr std::int64_t kLine = 64;

std::int64_t past_line(const std::byte* p) {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p) % kLine);
}

}  // namespace

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)  // which does not see such stores
namespace {

// All of a line is loaded before any is stored: a load waits for an earlier store to an address
// that is the same in its lowest 12 bits, which rows of even sizes often are.
void stream_line(std::byte* to, const std::byte* from) {
  using Quarter [[gnu::vector_size(16)]] = float;
  Quarter a, b, c, d;
  std::memcpy(&a, from, 16);
  std::memcpy(&b, from + 16, 16);
  std::memcpy(&c, from + 32, 16);
  std::memcpy(&d, from + 48, 16);
  auto* line = reinterpret_cast<Quarter*>(to);
  asm volatile("movntps %4, %0; movntps %5, %1; movntps %6, %2; movntps %7, %3"
               : "=m"(line[0]), "=m"(line[1]), "=m"(line[2]), "=m"(line[3])
               : "x"(a), "x"(b), "x"(c), "x"(d));
}

}  // namespace

void stream_copy(std::byte* to, const std::byte* from, std::int64_t bytes) {
  const std::int64_t head = std::min((kLine - past_line(to)) % kLine, bytes);
  const std::int64_t end = head + (bytes - head) / kLine * kLine;
  if (head > 0) std::memcpy(to, from, static_cast<std::size_t>(head));
  for (std::int64_t at = head; at < end; at += kLine) stream_line(to + at, from + at);
  if (end < bytes) std::memcpy(to + end, from + end, static_cast<std::size_t>(bytes - end));
}

void stream_rows(std::byte* to, const std::byte* from, std::int64_t stride, std::int64_t count,
                 std::int64_t bytes) {
  if (past_line(to) != 0 || bytes % kLine != 0) {
    for (std::int64_t row = 0; row < count; ++row) {
      stream_copy(to + row * bytes, from + row * stride, bytes);
    }
    return;
  }
  for (std::int64_t row = 0; row < count; ++row, from += stride) {
    for (std::int64_t at = 0; at < bytes; at += kLine, to += kLine) stream_line(to, from + at);
  }
}

void stream_fence() { asm volatile("sfence" : : : "memory"); }
#else
void stream_copy(std::byte* to, const std::byte* from, std::int64_t bytes) {
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

void stream_rows(std::byte* to, const std::byte* from, std::int64_t stride, std::int64_t count,
                 std::int64_t bytes) {
  for (std::int64_t row = 0; row < count; ++row) {
    stream_copy(to + row * bytes, from + row * stride, bytes);
  }
}

void stream_fence() {}
#endif

LineStream::LineStream(std::byte* to)
    : line_(to - past_line(to)), begin_(past_line(to)), end_(begin_) {}

void LineStream::send_lines() {
  const std::int64_t whole = end_ / kLine * kLine;
  stream_copy(line_ + begin_, buffer_ + begin_, whole - begin_);
  if (whole < end_) {
    std::memcpy(buffer_, buffer_ + whole, static_cast<std::size_t>(end_ - whole));
  }
  line_ += whole;
  begin_ = 0;
  end_ -= whole;
}

}  // namespace quire
