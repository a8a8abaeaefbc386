// Weights whose numbers are affine ones of four bits already, as those of some files are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "quire/ops/linear/weight.h"

namespace quire {

// A weight of affine numbers that is never in memory as a whole:
// w[n, k] = scales[n, k / 32] * codes[n, k] + offsets[n, k / 32].
struct AffineSource {
  std::int64_t num_rows = 0, num_columns = 0;  // of whole groups of 32
  // Writes rows [begin, end) as FloatRows does: codes of 0 to 15 [end - begin, num_columns], scales
  // and offsets [end - begin, num_columns / 32], all finite.
  std::function<void(std::int64_t begin, std::int64_t end, std::uint8_t* codes, float* scales,
                     float* offsets)>
      read;
};

inline constexpr std::int64_t kAffineGroupSize = 32;

// Packs them as int4 in groups of 32, exactly. Throws ValueError for other shapes and numbers.
std::shared_ptr<const Weight> pack_affine(const AffineSource& source, int num_threads,
                                          std::string_view function = "pack_affine");

}  // namespace quire
