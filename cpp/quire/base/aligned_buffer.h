// Memory for kernels to work in, kept from call to call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace quire {

// Floats on a cache line's boundary, uninitialised.
class AlignedBuffer {
 public:
  static constexpr std::size_t kAlignment = 64;

  // Room for `times` times `each` floats. What the buffer held before is lost.
  float* reserve(std::int64_t each, std::int64_t times = 1) {
    constexpr std::int64_t kMost = std::int64_t{1} << 48;  // more than any address space
    if (each < 0 || each > kMost / times) throw std::bad_alloc();
    const std::int64_t count = each * times;
    if (count > capacity_) {
      data_.reset();
      capacity_ = 0;
      const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(float);
      const std::size_t lines = (bytes + kAlignment - 1) / kAlignment;
      data_.reset(static_cast<float*>(std::aligned_alloc(kAlignment, lines * kAlignment)));
      if (data_ == nullptr) throw std::bad_alloc();
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
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> data_;
  std::int64_t capacity_ = 0;
};

}  // namespace quire
