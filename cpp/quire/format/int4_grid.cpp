#include "quire/format/int4_grid.h"

#include <algorithm>

#include "quire/format/int4_codes.h"

namespace quire {
namespace {

constexpr float kSmallestStep = 0x1p-24f;  // of float16, subnormal

}  // namespace

Int4Grid grid_between(float lowest, float highest) {
  const float step = std::max((highest - lowest) / 15.0f, kSmallestStep);
  const Float16 rounded = from_float<Float16>(step);
  const float middle = lowest + 8.0f * to_float(rounded);
  return {rounded, from_float<Float16>(std::clamp(middle, -kLargestOnGrid, kLargestOnGrid))};
}

std::uint8_t to_int4(float value, Int4Grid grid) {
  return nearest_code(value, to_float(grid.step), to_float(grid.middle));
}

void open_key(const std::byte* codes, const Int4Grid* grids, std::int64_t head_dim, float* key) {
  for (std::int64_t d = 0; d < head_dim; ++d) key[d] = from_int4(int4_at(codes, d), grids[d]);
}

void open_value(const std::byte* codes, Int4Grid grid, std::int64_t v_head_dim, float* value) {
  for (std::int64_t d = 0; d < v_head_dim; ++d) value[d] = from_int4(int4_at(codes, d), grid);
}

}  // namespace quire
