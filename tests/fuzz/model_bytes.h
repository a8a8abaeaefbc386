// The bytes of a fuzzer as the choices of a machine of tests/cpp. The first expectation that fails
// ends the process, which is what fuzzer and CTest take for a failure.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kv/open_rows.h"

namespace quire::testing {

class ModelBytes {
 public:
  ModelBytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {
    GTEST_FLAG_SET(break_on_failure, true);
  }

  bool are_used_up() const { return at_ == end_; }

  // The next byte; 0 where there is none.
  std::uint32_t next() { return at_ == end_ ? 0 : *at_++; }

  // What pool to make, of the next byte: 0 is float32, others say a dtype and 1 to 4 open blocks.
  std::optional<OpenKind> next_kind() {
    constexpr DType dtypes[] = {DType::int4, DType::int8, DType::float8_e4m3fn};
    const std::uint32_t kind = next() % 13;
    if (kind == 0) return std::nullopt;
    return OpenKind{dtypes[kind % 3], 1 + (kind - 1) / 3};
  }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* const end_;
};

}  // namespace quire::testing
