// The bytes of a fuzzer as choices of whatever tests/cpp makes at random. The first expectation
// that fails ends the process, which is what fuzzer and CTest take for a failure.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

namespace quire::testing {

class FuzzBytes {
 public:
  FuzzBytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {
    GTEST_FLAG_SET(break_on_failure, true);
  }

  bool are_used_up() const { return at_ == end_; }

  // The next byte; 0 where there is none.
  std::uint32_t next() { return at_ == end_ ? 0 : *at_++; }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* const end_;
};

}  // namespace quire::testing
