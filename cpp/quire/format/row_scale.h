// Rows of floats as numbers of int8 or a float8 times a scale of their own, and back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/dtype.h"

namespace quire {

// How a row gets its scale: its largest magnitude / largest_of(dtype), at least the smallest normal
// float, and never such that a number times it is infinite. The same bits as write_kv's. Of a row
// with a number that is not finite the scale is not finite either, which attention refuses.
//
// In steps, for a row that comes in pieces: the largest magnitude, of what came before too, NaN or
// infinite where a number is not finite; the scale; and the numbers, `count` finite floats divided
// by it and rounded to nearest even.
float largest_magnitude(const float* row, std::int64_t count, float so_far = 0);
float scale_of_row(float largest, DType dtype);
void divide_row(const float* row, std::int64_t count, DType dtype, float scale, std::byte* numbers);

// The largest number that a row is given with a scale that it does not choose: largest_of(dtype),
// or where that times the scale is infinite the largest that stands for a finite number.
float largest_number(DType dtype, float scale);

// What the numbers stand for.
void open_row(const std::byte* numbers, DType dtype, float scale, std::int64_t count, float* row);

}  // namespace quire
