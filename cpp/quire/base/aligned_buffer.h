// Memory on cache lines' boundaries: for results, and for kernels to work in, kept from call to
// call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace quire {

inline constexpr std::int64_t kCacheLine = 64;  // bytes

struct FreeFloats {
  void operator()(float* floats) const { std::free(floats); }
};
using AlignedFloats = std::unique_ptr<float[], FreeFloats>;

// Floats on a cache line's boundary, uninitialised; a place in memory also where there are none.
// Throws bad_alloc.
inline AlignedFloats aligned_floats(std::int64_t count) {
  constexpr std::int64_t kMost = std::int64_t{1} << 48;  // more than any address space
  if (count < 0 || count > kMost) throw std::bad_alloc();
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(float);
  const std::size_t lines = bytes / kCacheLine + 1;
  AlignedFloats floats(static_cast<float*>(std::aligned_alloc(kCacheLine, lines * kCacheLine)));
  if (floats == nullptr) throw std::bad_alloc();
  return floats;
}

// The same, kept for the next call.
class AlignedBuffer {
 public:
  // Room for `times` times `each` floats. What the buffer held before is lost.
  float* reserve(std::int64_t each, std::int64_t times = 1) {
    std::int64_t count = 0;
    if (__builtin_mul_overflow(each, times, &count) || count < 0) throw std::bad_alloc();
    if (count > capacity_) {
      data_.reset();
      capacity_ = 0;
      data_ = aligned_floats(count);
      capacity_ = count;
    }
    return data_.get();
  }

  // Gives the memory back where it is more than `count` floats.
  void keep_at_most(std::int64_t count) {
    if (capacity_ <= count) return;
    data_.reset();
    capacity_ = 0;
  }

 private:
  AlignedFloats data_;
  std::int64_t capacity_ = 0;
};

}  // namespace quire
