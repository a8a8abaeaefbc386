// Weights whose numbers are affine ones already, as those of some files are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "quire/ops/linear/weight.h"

namespace quire {

inline constexpr std::int64_t kAffineGroupSize = 32;

// A weight that is never in memory as a whole, of whole numbers with a scale and an offset for each
// row and group of 32: w[n, k] = scales[n, k / 32] * numbers[n, k] + offsets[n, k / 32].
struct AffineSource {
  std::int64_t num_rows = 0, num_columns = 0;  // of whole groups
  // Writes rows [begin, end), of one panel, at most 32: numbers [end - begin, num_columns], scales
  // and offsets [end - begin, num_columns / 32], all finite. Called by several threads at once,
  // once for each panel; what it throws ends the packing.
  std::function<void(std::int64_t begin, std::int64_t end, std::int8_t* numbers, float* scales,
                     float* offsets)>
      read;
  DType format = DType::int4;  // int4: numbers of 0 to 15; int8: of -128 to 127
};

// Packs them in groups of 32, exactly, with the memory of a panel for each thread. Throws
// ValueError for other formats, shapes and numbers.
std::shared_ptr<const Weight> pack_affine(const AffineSource& source, int num_threads,
                                          std::string_view function = "pack_affine");

}  // namespace quire
