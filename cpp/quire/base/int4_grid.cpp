#include "quire/base/int4_grid.h"

#include <algorithm>
#include <cmath>

namespace quire {
namespace {

constexpr float kSmallestStep = 0x1p-24f;  // of float16, subnormal

std::byte pair_of(std::uint8_t first, std::uint8_t second) {
  return static_cast<std::byte>(first | second << 4);
}

}  // namespace

Int4Grid grid_between(float lowest, float highest) {
  const float step = std::max((highest - lowest) / 15.0f, kSmallestStep);
  const Float16 rounded = from_float<Float16>(step);
  const float middle = lowest + 8.0f * to_float(rounded);
  return {rounded, from_float<Float16>(std::clamp(middle, -kLargestOnGrid, kLargestOnGrid))};
}

std::uint8_t to_int4(float value, Int4Grid grid) {
  const float n = std::nearbyint((value - to_float(grid.middle)) / to_float(grid.step));
  return static_cast<std::uint8_t>(static_cast<int>(std::clamp(n, -8.0f, 7.0f)) + 8);
}

void seal_keys(const float* keys, std::int64_t tokens, std::int64_t head_dim, std::byte* codes,
               std::int64_t stride, Int4Grid* grids) {
  for (std::int64_t d = 0; d < head_dim; ++d) {
    float lowest = keys[d], highest = keys[d];
    for (std::int64_t token = 1; token < tokens; ++token) {
      lowest = std::min(lowest, keys[token * head_dim + d]);
      highest = std::max(highest, keys[token * head_dim + d]);
    }
    grids[d] = grid_between(lowest, highest);
  }
  for (std::int64_t token = 0; token < tokens; ++token) {
    const float* const key = keys + token * head_dim;
    for (std::int64_t d = 0; d < head_dim; d += 2) {
      codes[token * stride + d / 2] =
          pair_of(to_int4(key[d], grids[d]), to_int4(key[d + 1], grids[d + 1]));
    }
  }
}

void seal_value(const float* value, std::int64_t v_head_dim, std::byte* codes, Int4Grid* grid) {
  const auto [lowest, highest] = std::minmax_element(value, value + v_head_dim);
  *grid = grid_between(*lowest, *highest);
  for (std::int64_t d = 0; d < v_head_dim; d += 2) {
    codes[d / 2] = pair_of(to_int4(value[d], *grid), to_int4(value[d + 1], *grid));
  }
}

void open_key(const std::byte* codes, const Int4Grid* grids, std::int64_t head_dim, float* key) {
  for (std::int64_t d = 0; d < head_dim; ++d) key[d] = from_int4(int4_at(codes, d), grids[d]);
}

void open_value(const std::byte* codes, Int4Grid grid, std::int64_t v_head_dim, float* value) {
  for (std::int64_t d = 0; d < v_head_dim; ++d) value[d] = from_int4(int4_at(codes, d), grid);
}

}  // namespace quire
