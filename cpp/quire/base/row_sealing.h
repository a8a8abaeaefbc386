// Rows of plain floats as those of a sealed block: numbers of few bits, and the grids or scales
// that they share (int4_grid.h, row_scale.h).
//
// The plain functions say what the bits are. A processor's kernels give the same ones sooner
// (quire/cpu/cache/seal_rows.h): whoever seals is told which to use.
#pragma once

#include "quire/base/dtype.h"
#include "quire/task/cache_task.h"

namespace quire {

// Numbers beyond kLargestOnGrid, as far as a float16 is rounded to it, become that. A grid of one
// that is larger or not finite is NaN, and so is the scale of a row with one that is not finite, or
// infinite: attention refuses those. In the codes of int4 such a number counts as 0.
struct SealFunctions {
  void (*keys)(const RowsToSeal& keys, const SealedRows& to);      // int4, of one block and head
  void (*values)(const RowsToSeal& values, const SealedRows& to);  // int4
  void (*rows)(const RowsToSeal& rows, DType dtype, const SealedRows& to);  // int8, float8_e4m3fn
};

extern const SealFunctions kPlainSealing;

}  // namespace quire
