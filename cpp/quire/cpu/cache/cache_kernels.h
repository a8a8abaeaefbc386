// What an instruction set offers for the rows of caches.
#pragma once

#include <cstdint>

#include "quire/format/row_sealing.h"
#include "quire/task/cache_task.h"

namespace quire {

struct CacheKernels {
  const char* instruction_set;

  // Rows of one dtype as rows of another, rounded to nearest even; both plain floats.
  void (*convert)(const RowsCopy& rows, DType from, DType to);

  // The largest magnitude of `count` plain floats; NaN where one of them is not finite.
  float (*largest)(const std::byte* from, DType dtype, std::int64_t count);

  // Elements divided by `scale`, cut off at largest_number(to, scale) and rounded to nearest even,
  // as numbers of a quantised dtype. All are finite, and the scale positive.
  void (*quantise)(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype,
                   std::int64_t count, float scale);

  // Rows as those of sealed blocks.
  SealFunctions seal;
};

}  // namespace quire
