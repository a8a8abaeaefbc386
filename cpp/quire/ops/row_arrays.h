// Arrays of rows: what lies along the last axis is a row, whatever axes come before.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>

#include "quire/ops/argument_checker.h"

namespace quire {

// The shape of an array of rows, for checks of others that must be the same.
inline std::array<Length, kMaxDims> lengths_of(const ArrayView& view) {
  std::array<Length, kMaxDims> lengths{};
  for (int axis = 0; axis < kMaxDims; ++axis) lengths[axis] = view.shape[axis];
  return lengths;
}

// Plain floats [..., D], with D >= 1 and any number of rows.
inline void check_rows(const ArgumentChecker& check, std::string_view argument,
                       const ArrayView& view) {
  auto lengths = lengths_of(view);
  const int axes = std::max(view.ndim, 1);  // a number is no row
  if (lengths[axes - 1] == 0) lengths[axes - 1] = std::nullopt;
  check.array(argument, view, std::span<const Length>(lengths.data(), axes), "..., D");
  check.plain_floats(argument, view);
}

// Rows like those of another array: of its shape, and of its dtype.
inline void check_rows_like(const ArgumentChecker& check, std::string_view argument,
                            const ArrayView& view, std::string_view other_argument,
                            const ArrayView& other) {
  const auto lengths = lengths_of(other);
  check.array(argument, view, std::span<const Length>(lengths.data(), other.ndim),
              concat("the shape of ", other_argument));
  if (view.dtype != other.dtype) {
    check.fail<TypeError>(argument, "got ", name_of(view.dtype), ", expected ",
                          name_of(other.dtype), ", the dtype of ", other_argument);
  }
}

// Whether two arrays of one shape are the same elements, each in the same place.
inline bool is_same_array(const ArrayView& a, const ArrayView& b) {
  if (a.data != b.data) return false;
  for (int axis = 0; axis < a.ndim; ++axis) {
    if (a.shape[axis] > 1 && a.strides[axis] != b.strides[axis]) return false;
  }
  return true;
}

// What is written element by element may be what is read, each element over itself.
inline void check_same_or_apart(const ArgumentChecker& check, std::string_view argument,
                                const ArrayView& view, std::string_view other_argument,
                                const ArrayView& other) {
  if (!is_same_array(view, other)) check.apart(argument, view, other_argument, other);
}

// How rows are walked: as few axes before the last one as all arrays of a call allow, so that many
// rows are a fixed step apart. Arrays have one shape.
class RowAxes {
 public:
  RowAxes(std::initializer_list<const ArrayView*> arrays) {
    const ArrayView& first = **arrays.begin();
    for (int axis = 0; axis + 1 < first.ndim; ++axis) {
      if (axis > 0 && joins(arrays, axis)) {
        lengths_[count_ - 1] *= first.shape[axis];
      } else {
        lengths_[count_++] = first.shape[axis];
      }
      axes_[count_ - 1] = axis;
    }
    if (count_ == 0) lengths_[count_++] = 1;  // one row alone
  }

  std::int64_t num_rows() const {
    std::int64_t product = 1;
    for (int i = 0; i < count_; ++i) product *= lengths_[i];
    return product;
  }
  // Rows from `row` on, at most up to `end`, that are a step apart.
  std::int64_t run_from(std::int64_t row, std::int64_t end) const {
    const std::int64_t inner = lengths_[count_ - 1];
    return std::min(end - row, inner - row % inner);
  }
  // Of one of the arrays: where a row begins, and bytes from one to the next within a run.
  std::byte* at(const ArrayView& array, std::int64_t row) const {
    std::byte* place = array.data;
    for (int i = count_ - 1; i >= 0 && array.ndim > 1; --i) {
      place += row % lengths_[i] * array.strides[axes_[i]];
      row /= lengths_[i];
    }
    return place;
  }
  std::int64_t step(const ArrayView& array) const {
    return array.ndim > 1 ? array.strides[axes_[count_ - 1]] : 0;
  }

 private:
  // Whether a step over all of `axis` is one step of the axis before.
  static bool joins(std::initializer_list<const ArrayView*> arrays, int axis) {
    for (const ArrayView* const array : arrays) {
      if (array->strides[axis - 1] != array->shape[axis] * array->strides[axis]) return false;
    }
    return true;
  }

  int count_ = 0;
  std::array<std::int64_t, kMaxDims> lengths_{};
  std::array<int, kMaxDims> axes_{};  // the axis whose stride is a step of each
};

}  // namespace quire
