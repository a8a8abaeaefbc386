// What the kernels of matrix products take and offer: plain data and function pointers, so that no
// code compiled for one instruction set can be called but through its table.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/dtype.h"

namespace quire {

// The most rows of x that are packed and multiplied at once: those of one task.
inline constexpr std::int64_t kTaskRows = 512;

// Rows are packed by 16, the rows of a tile.
inline constexpr std::int64_t kTileRows = 16;

// Some rows of x times a packed weight (ops/linear/packed_layout.h). Strides are in bytes.
struct GemmTask {
  const std::byte* x;  // rows of `row_length` plain floats
  std::int64_t x_stride;
  DType x_dtype, out_dtype;
  std::int64_t num_rows, row_length;  // at most kTaskRows; K

  DType format;              // of the weight
  std::int64_t depth;        // K with its padding, a multiple of group_depth
  bool has_groups;           // of K, each with a scale and an offset for each column behind it
  std::int64_t group_depth;  // numbers of K in a group; where there are none, all of them
  std::int64_t group_bytes, panel_bytes;

  std::int64_t num_columns;  // N
  const float* scales;       // of each column, of all panels, or null
  const float* bias;         // likewise

  std::byte* out;  // rows of num_columns elements of out_dtype
  std::int64_t out_stride;
};

// Panels that lie one after the other, which may be copies.
struct PanelRange {
  std::int64_t begin, count;
  const std::byte* data;
};

// One way to compute products. All give a row the same bits, wherever it stands.
struct GemmPath {
  // Bytes of the packed rows of a task, and of the room that `panels` panels at once need.
  std::int64_t (*packed_bytes)(const GemmTask& task);
  std::int64_t (*scratch_bytes)(const GemmTask& task, std::int64_t panels);
  // Packs rows [kTileRows * tile, kTileRows * (tile + 1)), as far as there are any.
  void (*pack_rows)(const GemmTask& task, std::int64_t tile, std::byte* packed);
  // Multiplies all rows with some panels, and writes these columns of out.
  void (*multiply)(const GemmTask& task, const std::byte* packed, const PanelRange& panels,
                   std::byte* scratch);
  // Panels that a worker takes together, where there are enough of them.
  std::int64_t (*panels_at_once)(const GemmTask& task);
};

struct GemmKernels {
  const char* name;
  GemmPath lanes;         // vectors of float32: any dtypes
  const GemmPath* tiles;  // AMX: x of bfloat16, weights whose numbers are; null: there are none
};

// Those of each instruction set that has some of its own: gemm_<isa>.cpp. AVX512-BF16's dot product
// of pairs has other sums than tiles have, so that AVX-512's serve there.
extern const GemmKernels kScalarGemm;
extern const GemmKernels kAvx2Gemm;
extern const GemmKernels kAvx512Gemm;
extern const GemmKernels kAmxGemm;
extern const GemmKernels kNeonGemm;

// Whether a product has the sums of AMX's tiles, on whatever processor: linear.h.
constexpr bool has_sums_of_tiles(DType x, DType format) {
  return x == DType::bfloat16 && format != DType::float32 && format != DType::float16;
}

}  // namespace quire
