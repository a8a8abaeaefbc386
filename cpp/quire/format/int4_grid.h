// Numbers of four bits, on a grid of sixteen points.
//
// A byte holds two: element 2 i of a row in its lower half and element 2 i + 1 in its upper one. A
// half, u = 0 to 15, stands for the whole number n = u - 8, and that for middle + n * step, where
// all that share a grid share middle and step. Keys share one by channel, over the tokens of a
// block, and values by token, over the elements of a row: keys have channels that are large in all
// tokens, which would leave nothing of the others on a grid of one token. Source: Liu et al.,
// "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache" (arXiv:2402.02750).
#pragma once

#include <cstdint>

#include "quire/base/dtype.h"

namespace quire {

struct Int4Grid {
  Float16 step;  // positive
  Float16 middle;
};
static_assert(sizeof(Int4Grid) == 4);

// The largest magnitude that a grid can hold, the largest of float16.
inline constexpr float kLargestOnGrid = 65504.0f;

// The grid whose ends are these two finite numbers, lowest <= highest, at most kLargestOnGrid in
// magnitude. Its step is at least the smallest of float16.
Int4Grid grid_between(float lowest, float highest);

// The nearest u of a finite number, ties to the even n, 0 or 15 beyond the ends.
std::uint8_t to_int4(float value, Int4Grid grid);

inline float from_int4(std::uint8_t u, Int4Grid grid) {
  return to_float(grid.middle) + static_cast<float>(static_cast<int>(u) - 8) * to_float(grid.step);
}

// Element i of a row.
inline std::uint8_t int4_at(const std::byte* row, std::int64_t i) {
  return static_cast<std::uint8_t>(row[i / 2]) >> (i % 2 * 4) & 0xf;
}

// What a row of codes stands for, as floats; of a key, and of a value.
void open_key(const std::byte* codes, const Int4Grid* grids, std::int64_t head_dim, float* key);
void open_value(const std::byte* codes, Int4Grid grid, std::int64_t v_head_dim, float* value);

}  // namespace quire
