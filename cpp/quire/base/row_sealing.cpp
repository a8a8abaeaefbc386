#include "quire/base/row_sealing.h"

#include <algorithm>
#include <cmath>

#include "quire/base/int4_grid.h"
#include "quire/base/row_scale.h"

namespace quire {
namespace {

// What kLargestOnGrid is rounded to, in bfloat16.
constexpr float kLargestRounded = 65536.0f;

constexpr Int4Grid kNoGrid = {{0x7e00}, {0x7e00}};  // NaN

// Elements of a row that are worked on at a time, without the heap. Even.
constexpr std::int64_t kAtOnce = 64;

// Elements [at, at + count) of a row as floats.
void load(const RowsToSeal& rows, std::int64_t row, std::int64_t at, std::int64_t count,
          float* to) {
  visit_dtype(rows.dtype, [&](auto type) {
    const auto* from = reinterpret_cast<const decltype(type)*>(rows.from + row * rows.stride) + at;
    std::transform(from, from + count, to, [](auto x) { return to_float(x); });
  });
}

// Numbers that a grid can hold; 0 for those that none can, which are noted.
void put_on_grid(float* numbers, std::int64_t count, bool* is_off) {
  for (std::int64_t i = 0; i < count; ++i) {
    const bool is_held = std::abs(numbers[i]) <= kLargestRounded;  // not of a NaN
    is_off[i] |= !is_held;
    numbers[i] = is_held ? std::clamp(numbers[i], -kLargestOnGrid, kLargestOnGrid) : 0.0f;
  }
}

void write_codes(const float* numbers, std::int64_t count, const Int4Grid* grids,
                 std::int64_t grid_step, std::byte* codes) {
  for (std::int64_t i = 0; i < count; i += 2) {
    codes[i / 2] = static_cast<std::byte>(to_int4(numbers[i], grids[i * grid_step]) |
                                          to_int4(numbers[i + 1], grids[(i + 1) * grid_step]) << 4);
  }
}

void seal_some_keys(const RowsToSeal& keys, std::int64_t at, std::int64_t count,
                    const SealedRows& to) {
  float numbers[kAtOnce], lowest[kAtOnce], highest[kAtOnce];
  bool is_off[kAtOnce] = {};
  for (std::int64_t row = 0; row < keys.count; ++row) {
    load(keys, row, at, count, numbers);
    put_on_grid(numbers, count, is_off);
    for (std::int64_t i = 0; i < count; ++i) {
      lowest[i] = row == 0 ? numbers[i] : std::min(lowest[i], numbers[i]);
      highest[i] = row == 0 ? numbers[i] : std::max(highest[i], numbers[i]);
    }
  }
  Int4Grid* const grids = reinterpret_cast<Int4Grid*>(to.scales) + at;
  for (std::int64_t i = 0; i < count; ++i) grids[i] = grid_between(lowest[i], highest[i]);
  for (std::int64_t row = 0; row < keys.count; ++row) {
    load(keys, row, at, count, numbers);
    put_on_grid(numbers, count, is_off);
    write_codes(numbers, count, grids, 1, to.numbers + row * to.stride + at / 2);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (is_off[i]) grids[i] = kNoGrid;
  }
}

void seal_keys_plainly(const RowsToSeal& keys, const SealedRows& to) {
  for (std::int64_t at = 0; at < keys.length; at += kAtOnce) {
    seal_some_keys(keys, at, std::min(kAtOnce, keys.length - at), to);
  }
}

void seal_values_plainly(const RowsToSeal& values, const SealedRows& to) {
  for (std::int64_t row = 0; row < values.count; ++row) {
    float numbers[kAtOnce], lowest = INFINITY, highest = -INFINITY;
    bool is_off[kAtOnce] = {};
    const auto load_some = [&](std::int64_t at) {
      const std::int64_t count = std::min(kAtOnce, values.length - at);
      load(values, row, at, count, numbers);
      put_on_grid(numbers, count, is_off);
      return count;
    };
    for (std::int64_t at = 0; at < values.length; at += kAtOnce) {
      const std::int64_t count = load_some(at);
      lowest = std::min(lowest, *std::min_element(numbers, numbers + count));
      highest = std::max(highest, *std::max_element(numbers, numbers + count));
    }
    auto* const grid = reinterpret_cast<Int4Grid*>(to.scales + row * to.scale_stride);
    *grid = grid_between(lowest, highest);
    for (std::int64_t at = 0; at < values.length; at += kAtOnce) {
      const std::int64_t count = load_some(at);
      write_codes(numbers, count, grid, 0, to.numbers + row * to.stride + at / 2);
    }
    if (std::find(is_off, is_off + kAtOnce, true) != is_off + kAtOnce) *grid = kNoGrid;
  }
}

void seal_rows_plainly(const RowsToSeal& rows, DType dtype, const SealedRows& to) {
  for (std::int64_t row = 0; row < rows.count; ++row) {
    float numbers[kAtOnce], largest = 0;
    for (std::int64_t at = 0; at < rows.length; at += kAtOnce) {
      const std::int64_t count = std::min(kAtOnce, rows.length - at);
      load(rows, row, at, count, numbers);
      largest = largest_magnitude(numbers, count, largest);
    }
    const float scale = scale_of_row(largest, dtype);
    *reinterpret_cast<float*>(to.scales + row * to.scale_stride) = scale;
    for (std::int64_t at = 0; at < rows.length; at += kAtOnce) {
      const std::int64_t count = std::min(kAtOnce, rows.length - at);
      load(rows, row, at, count, numbers);
      divide_row(numbers, count, dtype, scale, to.numbers + row * to.stride + at);
    }
  }
}

}  // namespace

const SealFunctions kPlainSealing = {&seal_keys_plainly, &seal_values_plainly, &seal_rows_plainly};

}  // namespace quire
