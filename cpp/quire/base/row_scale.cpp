#include "quire/base/row_scale.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quire {

float seal_row(const float* row, std::int64_t count, DType dtype, std::byte* numbers) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(row[i]));
  const float scale = std::max(largest / largest_of(dtype), std::numeric_limits<float>::min());
  visit_cache_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    auto* to = reinterpret_cast<T*>(numbers);
    for (std::int64_t i = 0; i < count; ++i) to[i] = from_float<T>(row[i] / scale);
  });
  return scale;
}

void open_row(const std::byte* numbers, DType dtype, float scale, std::int64_t count, float* row) {
  visit_cache_dtype(dtype, [&](auto type) {
    const auto* from = reinterpret_cast<const decltype(type)*>(numbers);
    for (std::int64_t i = 0; i < count; ++i) row[i] = to_float(from[i]) * scale;
  });
}

}  // namespace quire
