// What a cache of each dtype is, each in a file of its own (int8_format.h, ...): what its numbers
// are multiplied by, which it holds, how blocks of it are written. What one number is, and whether
// it is quantised, base/dtype.h says.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "quire/base/dtype.h"
#include "quire/task/cache_view.h"

namespace quire {

struct CacheFormat {
  DType dtype;

  // What the numbers of a row are multiplied by.
  ScaleKind scales = ScaleKind::none;

  // Finite numbers of new rows that are larger in magnitude are refused. Infinity: those that are
  // rounded to infinity.
  float largest = std::numeric_limits<float>::infinity();

  // Last blocks of a table that are kept in full precision beside this one (kv/pool/open_blocks.h):
  // how many unless it is said, and the fewest.
  std::int64_t open_blocks = 0;
  std::int64_t least_open_blocks = 0;

  // Of the elements of its arrays in a safetensors file.
  std::string_view safetensors_name;

  // Whether the rows of a block share what they are multiplied by, so that a block is written
  // whole, when all of its rows are known.
  bool is_sealed_by_block() const { return scales == ScaleKind::grids; }
};

// Floats of 8 bits: what a cache may be whose owner only has bytes, and what queries of it may be.
constexpr bool is_float8(DType dtype) {
  return dtype == DType::float8_e4m3fn || dtype == DType::float8_e5m2;
}

// The format of a cache of that dtype.
const CacheFormat& format_of(DType dtype);

}  // namespace quire
