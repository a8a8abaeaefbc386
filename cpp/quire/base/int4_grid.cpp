#include "quire/base/int4_grid.h"

#include <algorithm>

#include "quire/base/int4_codes.h"

namespace quire {
namespace {

constexpr float kSmallestStep = 0x1p-24f;  // of float16, subnormal

constexpr std::int64_t kAtOnce = kCodesAtOnce;

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

void seal_keys(const float* keys, std::int64_t tokens, std::int64_t head_dim, std::byte* codes,
               std::int64_t stride, Int4Grid* grids) {
  for (std::int64_t first = 0; first < head_dim; first += kAtOnce) {
    const std::int64_t count = std::min(kAtOnce, head_dim - first);
    const float* const some = keys + first;
    float lowest[kAtOnce], highest[kAtOnce];
    std::copy_n(some, count, lowest);
    std::copy_n(some, count, highest);
    for (std::int64_t token = 1; token < tokens; ++token) {
      const float* const key = some + token * head_dim;
      for (std::int64_t i = 0; i < count; ++i) {
        lowest[i] = std::min(lowest[i], key[i]);
        highest[i] = std::max(highest[i], key[i]);
      }
    }
    GridsOfCodes these;
    for (std::int64_t i = 0; i < count; ++i) {
      const Int4Grid grid = grids[first + i] = grid_between(lowest[i], highest[i]);
      these.step[i] = to_float(grid.step);
      these.middle[i] = to_float(grid.middle);
    }
    for (std::int64_t token = 0; token < tokens; ++token) {
      write_codes(some + token * head_dim, these, count, codes + token * stride + first / 2);
    }
  }
}

void seal_value(const float* value, std::int64_t v_head_dim, std::byte* codes, Int4Grid* grid) {
  constexpr std::int64_t kLanes = 16;
  float lowest[kLanes], highest[kLanes];
  std::fill_n(lowest, kLanes, value[0]);
  std::fill_n(highest, kLanes, value[0]);
  const auto add = [&](const float* some, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      lowest[i] = std::min(lowest[i], some[i]);
      highest[i] = std::max(highest[i], some[i]);
    }
  };
  std::int64_t at = 0;
  for (; at + kLanes <= v_head_dim; at += kLanes) add(value + at, kLanes);
  add(value + at, v_head_dim - at);
  *grid = grid_between(*std::min_element(lowest, lowest + kLanes),
                       *std::max_element(highest, highest + kLanes));
  GridsOfCodes same;
  std::fill_n(same.step, kAtOnce, to_float(grid->step));
  std::fill_n(same.middle, kAtOnce, to_float(grid->middle));
  for (std::int64_t first = 0; first < v_head_dim; first += kAtOnce) {
    write_codes(value + first, same, std::min(kAtOnce, v_head_dim - first), codes + first / 2);
  }
}

void open_key(const std::byte* codes, const Int4Grid* grids, std::int64_t head_dim, float* key) {
  for (std::int64_t d = 0; d < head_dim; ++d) key[d] = from_int4(int4_at(codes, d), grids[d]);
}

void open_value(const std::byte* codes, Int4Grid grid, std::int64_t v_head_dim, float* value) {
  for (std::int64_t d = 0; d < v_head_dim; ++d) value[d] = from_int4(int4_at(codes, d), grid);
}

}  // namespace quire
