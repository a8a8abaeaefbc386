#include "quire/format/row_sealing.h"

#include <algorithm>
#include <cmath>

#include "quire/format/int4_codes.h"
#include "quire/format/int4_grid.h"
#include "quire/format/row_scale.h"

namespace quire {
namespace {

// What kLargestOnGrid is rounded to, in bfloat16.
constexpr float kLargestRounded = 65536.0f;

constexpr Int4Grid kNoGrid = {{0x7e00}, {0x7e00}};  // NaN

// Elements of a row that are worked on at a time, without the heap.
constexpr std::int64_t kAtOnce = kCodesAtOnce;

// Elements [at, at + count) of a row as floats.
void load(const RowsToSeal& rows, std::int64_t row, std::int64_t at, std::int64_t count,
          float* to) {
  visit_dtype(rows.dtype, [&](auto type) {
    const auto* from = reinterpret_cast<const decltype(type)*>(rows.from + row * rows.stride) + at;
    std::transform(from, from + count, to, [](auto x) { return to_float(x); });
  });
}

// Numbers that a grid can hold; 0 for those that none can, which are noted.
void put_on_grid(float* numbers, std::int64_t count, std::uint8_t* is_off) {
  for (std::int64_t i = 0; i < count; ++i) {
    const bool is_held = std::abs(numbers[i]) <= kLargestRounded;  // not of a NaN
    is_off[i] |= static_cast<std::uint8_t>(!is_held);
    numbers[i] = is_held ? std::clamp(numbers[i], -kLargestOnGrid, kLargestOnGrid) : 0.0f;
  }
}

void seal_some_keys(const RowsToSeal& keys, std::int64_t at, std::int64_t count,
                    const SealedRows& to) {
  float numbers[kAtOnce], lowest[kAtOnce], highest[kAtOnce];
  std::uint8_t is_off[kAtOnce] = {};
  std::fill_n(lowest, count, INFINITY);
  std::fill_n(highest, count, -INFINITY);
  for (std::int64_t row = 0; row < keys.count; ++row) {
    load(keys, row, at, count, numbers);
    put_on_grid(numbers, count, is_off);
    for (std::int64_t i = 0; i < count; ++i) {
      lowest[i] = std::min(lowest[i], numbers[i]);
      highest[i] = std::max(highest[i], numbers[i]);
    }
  }
  Int4Grid* const grids = reinterpret_cast<Int4Grid*>(to.scales) + at;
  GridsOfCodes own;
  for (std::int64_t i = 0; i < count; ++i) {
    grids[i] = grid_between(lowest[i], highest[i]);
    own.step[i] = to_float(grids[i].step);
    own.middle[i] = to_float(grids[i].middle);
  }
  for (std::int64_t row = 0; row < keys.count; ++row) {
    load(keys, row, at, count, numbers);
    put_on_grid(numbers, count, is_off);
    write_codes(numbers, own, count, to.numbers + row * to.stride + at / 2);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (is_off[i] != 0) grids[i] = kNoGrid;
  }
}

void seal_keys_plainly(const RowsToSeal& keys, const SealedRows& to) {
  for (std::int64_t at = 0; at < keys.length; at += kAtOnce) {
    seal_some_keys(keys, at, std::min(kAtOnce, keys.length - at), to);
  }
}

void seal_values_plainly(const RowsToSeal& values, const SealedRows& to) {
  for (std::int64_t row = 0; row < values.count; ++row) {
    float numbers[kAtOnce], lows[kAtOnce], highs[kAtOnce];
    std::fill_n(lows, kAtOnce, INFINITY);
    std::fill_n(highs, kAtOnce, -INFINITY);
    std::uint8_t is_off[kAtOnce] = {};
    const auto load_some = [&](std::int64_t at) {
      const std::int64_t count = std::min(kAtOnce, values.length - at);
      load(values, row, at, count, numbers);
      put_on_grid(numbers, count, is_off);
      return count;
    };
    for (std::int64_t at = 0; at < values.length; at += kAtOnce) {
      const std::int64_t count = load_some(at);
      for (std::int64_t i = 0; i < count; ++i) {
        lows[i] = std::min(lows[i], numbers[i]);
        highs[i] = std::max(highs[i], numbers[i]);
      }
    }
    auto* const grid = reinterpret_cast<Int4Grid*>(to.scales + row * to.scale_stride);
    *grid = grid_between(*std::min_element(lows, lows + kAtOnce),
                         *std::max_element(highs, highs + kAtOnce));
    GridsOfCodes same;
    std::fill_n(same.step, kAtOnce, to_float(grid->step));
    std::fill_n(same.middle, kAtOnce, to_float(grid->middle));
    for (std::int64_t at = 0; at < values.length; at += kAtOnce) {
      const std::int64_t count = load_some(at);
      write_codes(numbers, same, count, to.numbers + row * to.stride + at / 2);
    }
    if (std::find(is_off, is_off + kAtOnce, 1) != is_off + kAtOnce) *grid = kNoGrid;
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
