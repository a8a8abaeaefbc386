// Rows of plain floats as those of a sealed block: numbers of few bits, and the grids or scales
// that they share (int4_grid.h, row_scale.h).
//
// The plain functions say what the bits are. A processor's kernels give the same ones sooner
// (quire/cpu/cache/seal_rows.h): whoever seals is told which to use.
#pragma once

#include "quire/format/cache_format.h"
#include "quire/task/cache_task.h"

namespace quire {

// Numbers beyond kLargestOnGrid, up to the 65536 that it is rounded to in bfloat16, become that. A
// grid of one that is larger or not finite is NaN, and so is the scale of a row with one that is
// not finite, or infinite: attention refuses those. Among codes of four bits such a number is 0.
struct SealFunctions {
  // On grids, keys of one block and head, and values; and rows with scales of their own.
  void (*keys)(const RowsToSeal& keys, const SealedRows& to);
  void (*values)(const RowsToSeal& values, const SealedRows& to);
  void (*rows)(const RowsToSeal& rows, DType dtype, const SealedRows& to);

  // Keys of one block and head, and values, as the format of `dtype` has them.
  void seal_keys(const RowsToSeal& from, DType dtype, const SealedRows& to) const {
    if (format_of(dtype).scales == ScaleKind::grids) return keys(from, to);
    rows(from, dtype, to);
  }
  void seal_values(const RowsToSeal& from, DType dtype, const SealedRows& to) const {
    if (format_of(dtype).scales == ScaleKind::grids) return values(from, to);
    rows(from, dtype, to);
  }
};

extern const SealFunctions kPlainSealing;

}  // namespace quire
