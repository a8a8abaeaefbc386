// Memory that lies in huge pages where it is large: who goes through it looks up few of them.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "quire/base/aligned_buffer.h"

namespace quire {

inline constexpr std::int64_t kHugePage = 2 << 20;  // bytes

struct FreeBytes {
  void operator()(std::byte* bytes) const { std::free(bytes); }
};
using PagedBytes = std::unique_ptr<std::byte[], FreeBytes>;

// What large_bytes takes for `count` bytes: whole huge pages from half of one on, else whole lines.
constexpr std::int64_t taken_bytes(std::int64_t count) {
  const std::int64_t step = count >= kHugePage / 2 ? kHugePage : kCacheLine;
  return (std::max<std::int64_t>(count, 1) + step - 1) / step * step;
}

// Uninitialised bytes on a cache line's boundary, a place in memory also where there are none.
// Throws bad_alloc.
inline PagedBytes large_bytes(std::int64_t count) {
  constexpr std::int64_t kMost = std::int64_t{1} << 50;  // more than any address space
  if (count < 0 || count > kMost) throw std::bad_alloc();
  const auto bytes = static_cast<std::size_t>(taken_bytes(count));
  const bool is_large = count >= kHugePage / 2;
  PagedBytes memory(static_cast<std::byte*>(
      std::aligned_alloc(static_cast<std::size_t>(is_large ? kHugePage : kCacheLine), bytes)));
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (is_large) madvise(memory.get(), bytes, MADV_HUGEPAGE);  // advice: may be declined
#endif
  return memory;
}

}  // namespace quire
