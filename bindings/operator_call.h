// What the bindings of operators have in common.
#pragma once

#include <cstdint>
#include <span>

#include "numpy_view.h"
#include "result_array.h"

namespace quire::python {

// A number that may not be None. Throws TypeError.
double to_double(Argument argument, pybind11::handle object);

// The format of a packed weight, by its name. Throws TypeError, and ValueError that lists them.
DType to_weight_format(Argument argument, pybind11::handle object);

// Where an operator writes: the array that the caller gave, or a new one of the library of `given`.
class OutArray {
 public:
  OutArray(Argument argument, pybind11::handle out, pybind11::handle given, DType dtype,
           std::span<const std::int64_t> shape);
  // Of the shape and dtype of `like`.
  OutArray(Argument argument, pybind11::handle out, pybind11::handle given, const ArrayView& like)
      : OutArray(
            argument, out, given, like.dtype,
            std::span<const std::int64_t>(like.shape.data(), static_cast<std::size_t>(like.ndim))) {
  }

  const ArrayView& view() const { return made_ ? made_.view() : given_.view; }
  // What the caller gets; once.
  pybind11::object take();

 private:
  ResultArray made_;
  FloatArray given_;
  pybind11::object out_;
};

// The same where C++ takes a span: float32, int32 or int64 numbers, one after the other.
template <class T>
class OutNumbers {
 public:
  // Throws TypeError and ValueError where what the caller gave is no such array of this shape.
  OutNumbers(Argument argument, pybind11::handle out, pybind11::handle given,
             std::span<const std::int64_t> shape);

  std::span<T> values() const { return {data_, size_}; }
  // What the caller gets; once.
  pybind11::object take();

 private:
  T* data_ = nullptr;
  std::size_t size_ = 1;
  ResultArray made_;              // of floats
  pybind11::object given_;        // whose library made indices are to be of
  pybind11::object out_, owner_;  // what the caller gave; what has the memory
};

}  // namespace quire::python
