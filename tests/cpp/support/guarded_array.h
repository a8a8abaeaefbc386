// An array that ends where memory ends: whoever reads or writes past it ends the program.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <span>

namespace quire::testing {

// At most a page of elements, of which the last is the last of its page; the next page is nobody's.
template <class T>
class GuardedArray {
 public:
  GuardedArray() : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    void* const pages =
        mmap(nullptr, 2 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<std::byte*>(pages);
    if (mprotect(data_ + page_, page_, PROT_NONE) != 0) throw std::bad_alloc();
  }
  ~GuardedArray() { munmap(data_, 2 * page_); }
  GuardedArray(const GuardedArray&) = delete;
  GuardedArray& operator=(const GuardedArray&) = delete;

  T* end() const { return reinterpret_cast<T*>(data_ + page_); }

  // The last `count` elements, and all before them set to bytes of 0xa5.
  T* last(std::size_t count) const {
    std::memset(data_, 0xa5, page_);
    return end() - count;
  }
  // These elements, as the last ones.
  const T* hold(std::span<const T> elements) const {
    T* const begin = last(elements.size());
    std::copy(elements.begin(), elements.end(), begin);
    return begin;
  }
  // Whether nobody has written before the last `count` elements.
  bool is_untouched_before(std::size_t count) const {
    const auto* const last = reinterpret_cast<const std::byte*>(end() - count);
    return std::all_of(static_cast<const std::byte*>(data_), last,
                       [](std::byte b) { return b == std::byte{0xa5}; });
  }

 private:
  const std::size_t page_;
  std::byte* data_;
};

}  // namespace quire::testing
