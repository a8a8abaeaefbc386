// Python's arrays as Quire's, without a copy, and back: the only code that knows NumPy.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "arguments.h"
#include "quire/base/array_view.h"

namespace quire::python {

// Looks up NumPy and the dtype of bfloat16; once, when the module is imported.
void initialise_numpy();

bool is_ndarray(pybind11::handle object);

// Whether an object is an array of some kind. NumPy's numbers, which show their memory too, are
// none.
bool shows_array(pybind11::handle object);

// A view, and what keeps its memory alive.
struct FloatArray {
  ArrayView view;
  pybind11::object owner;
};
struct IndexArray {
  IndexView view;
  pybind11::object owner;
  bool writable = false;
};

// Takes ndarrays, and CPU objects with __dlpack__ or __array_interface__. Throws TypeError for
// anything else and for a dtype that is not float32, float16 or bfloat16 (int32 or int64 for
// indices), ValueError for more than kMaxDims axes (two for indices), swapped bytes or indices off
// their alignment. A view is writable where the object says so; a DLPack capsule without a version
// says nothing, and is not.
FloatArray to_float_array(Argument argument, pybind11::handle object);
IndexArray to_index_array(Argument argument, pybind11::handle object);

// The same with floats of 8 bits as well.
FloatArray to_query_array(Argument argument, pybind11::handle object);

// A copy of bools along one axis.
struct BoolArray {
  std::unique_ptr<bool[]> values;
  std::size_t size = 0;

  std::span<const bool> view() const { return {values.get(), size}; }
};
// Throws TypeError for anything but an array of bool, ValueError for another number of axes.
BoolArray to_bool_array(Argument argument, pybind11::handle object);

// The same, or None.
std::optional<FloatArray> to_optional_floats(Argument argument, pybind11::handle object);
inline std::optional<ArrayView> view_of(const std::optional<FloatArray>& array) {
  return array ? std::optional(array->view) : std::nullopt;
}
std::optional<IndexArray> to_optional_indices(Argument argument, pybind11::handle object);
inline std::optional<IndexView> view_of(const std::optional<IndexArray>& array) {
  return array ? std::optional(array->view) : std::nullopt;
}

// The same with a quantised dtype of a cache as well: int8, float8_e4m3fn, float8_e5m2, or
// int4 as uint8, two numbers in each.
//
// What the caller says with cache_dtype: that a cache of uint8 is one of 8-bit floats, as libraries
// hold those that have no such dtype. Throws TypeError where it does not fit the cache.
FloatArray to_cache_array(Argument argument, pybind11::handle object,
                          std::optional<DType> cache_dtype = std::nullopt);

// The same of a dtype that is known, of the named cache.
void require_cache_dtype(Argument cache, DType known, DType cache_dtype);

// The scales of a quantised cache: an array of floats, or a number, as one of float32 without axes.
// Of which dtype the cache is says what is expected.
class ScaleArray {
 public:
  ScaleArray(Argument argument, pybind11::handle object, DType cache_dtype);
  ScaleArray(const ScaleArray&) = delete;
  ScaleArray& operator=(const ScaleArray&) = delete;

  // None for None. Valid while this lives.
  const std::optional<ArrayView>& view() const { return view_; }

 private:
  std::optional<ArrayView> view_;
  float number_ = 0;
  pybind11::object owner_;
};

// A contiguous array of bytes, for measuring.
struct ByteArray {
  std::byte* data;
  std::int64_t size;
  pybind11::object owner;
};
ByteArray to_byte_array(Argument argument, pybind11::handle object);

// A new uninitialised array of at most kMaxDims axes; `view` becomes one of its memory.
pybind11::object new_float_array(DType dtype, std::initializer_list<std::int64_t> shape,
                                 ArrayView* view);
pybind11::object new_float_array(DType dtype, std::span<const std::int64_t> shape, ArrayView* view);

// A new uninitialised array; `data` becomes its memory.
template <class T>
pybind11::object new_index_array(const std::vector<std::int64_t>& shape, T** data);

// A writable array over memory that `owner` keeps alive.
pybind11::object array_over(const ArrayView& view, pybind11::handle owner);

// NumPy's dtype object; of int4 that of bytes.
pybind11::object numpy_dtype(DType dtype);

// From a name, a NumPy dtype or a scalar type. Throws TypeError that lists the supported ones.
DType to_dtype(Argument argument, pybind11::handle object);
std::optional<DType> to_optional_dtype(Argument argument, pybind11::handle object);

}  // namespace quire::python
