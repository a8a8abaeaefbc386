// What the kernels of caches are told: rows to copy, and rows to seal.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/task/dtype_name.h"

namespace quire {

// `count` rows of `length` elements, from one array to another; strides in bytes.
struct RowsCopy {
  const std::byte* from;
  std::int64_t from_stride;
  std::byte* to;
  std::int64_t to_stride;
  std::int64_t count, length;
};

// `count` rows of `length` plain floats, `stride` bytes from one to the next. Of int4 `length` is
// even.
struct RowsToSeal {
  const std::byte* from;
  std::int64_t stride;
  DType dtype;
  std::int64_t count, length;
};

// Where they go: rows of numbers, and what each of them shares, each so many bytes apart. Of keys
// of int4 there is one such for all: a grid for each channel, one after the other.
struct SealedRows {
  std::byte* numbers;
  std::int64_t stride;
  std::byte* scales;
  std::int64_t scale_stride;
};

}  // namespace quire
