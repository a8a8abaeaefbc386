// What the bindings of operators have in common.
#pragma once

#include <optional>
#include <vector>

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

}  // namespace quire::python
