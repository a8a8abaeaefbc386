// Weights as matrix products read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "quire/base/array_view.h"
#include "quire/ops/linear/weight.h"

namespace quire {

// What pack_weight makes of w.
struct WeightOptions {
  DType format = DType::bfloat16;          // float32, float16, bfloat16, int8 or int4
  std::optional<std::int64_t> group_size;  // 32, 64 or 128, of int4 alone; none: 64
};

// Packs w [N, K], any plain floats whose last axis is contiguous, N, K >= 1.
//
//   float32, float16, bfloat16   each number rounded to nearest even
//   int8    w[n, k] = scale[n] * q, q = -127 to 127: scale[n] = max |w[n]| / 127, q rounded to
//           nearest even
//   int4    w[n, k] = scale * q + offset, q = 0 to 15, for each row and group of K: MLX's affine
//           numbers (mlx/ops.cpp, affine quantize), scale and offset rounded to w's dtype
//
// Throws ValueError or TypeError for other arrays and options, and ValueError for numbers that are
// not finite in w, or overflow float16, where the format cannot say so: those of int8 and int4.
std::shared_ptr<const Weight> pack_weight(const ArrayView& w, const WeightOptions& options,
                                          int num_threads,
                                          std::string_view function = "pack_weight");

// A weight [num_rows, num_columns] that is never in memory as a whole, as a file's.
struct FloatRows {
  std::int64_t num_rows = 0, num_columns = 0;
  // Writes rows [begin, end), float32 [end - begin, num_columns]: of one panel, at most 32. Called
  // by several threads at once, once for each panel; what it throws ends the packing.
  std::function<void(std::int64_t begin, std::int64_t end, float* rows)> read;
};

// Packs it as pack_weight packs the same float32 numbers, in every bit, with the memory of a panel
// for each thread.
std::shared_ptr<const Weight> pack_weight(const FloatRows& source, const WeightOptions& options,
                                          int num_threads,
                                          std::string_view function = "pack_weight");

// Rows [32 panel, 32 panel + 32) of w as a panel of its own dtype, for weights that are packed for
// one product. `panel` is layout.panel_bytes() long; all of it is written.
void pack_panel(const ArrayView& w, const PackedLayout& layout, std::int64_t panel,
                std::byte* packed);

}  // namespace quire
