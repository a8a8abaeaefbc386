// The bytes of a fuzzer as the choices of a pool's life, one of the machines of tests/cpp/kv.
#pragma once

#include <optional>

#include "fuzz_bytes.h"
#include "kv/table/open_rows.h"

namespace quire::testing {

class ModelBytes : public FuzzBytes {
 public:
  using FuzzBytes::FuzzBytes;

  // What pool to make, of the next byte: 0 is float32, others say a dtype and 1 to 4 open blocks.
  std::optional<OpenKind> next_kind() {
    constexpr DType dtypes[] = {DType::int4, DType::int8, DType::float8_e4m3fn};
    const std::uint32_t kind = next() % 13;
    if (kind == 0) return std::nullopt;
    return OpenKind{dtypes[kind % 3], 1 + (kind - 1) / 3};
  }
};

}  // namespace quire::testing
