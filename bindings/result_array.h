// A result on its way to the caller: memory that is computed into, and then an array of the library
// that the call's first array belongs to.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <span>

#include "array_library.h"
#include "dlpack_export.h"
#include "quire/base/aligned_buffer.h"

namespace quire::python {

class ResultArray {
 public:
  // None.
  ResultArray() = default;
  // New uninitialised memory of at most kMaxDims axes, for an array of the library of `given`.
  // Throws MemoryError.
  ResultArray(pybind11::handle given, DType dtype, std::span<const std::int64_t> shape);
  // Memory that has been computed into already.
  ResultArray(pybind11::handle given, const ArrayView& view, AlignedFloats memory);

  const ArrayView& view() const { return shared_.view; }
  explicit operator bool() const { return array_ || tensor_ || shared_.memory != nullptr; }

  // The array, over the same memory; once.
  pybind11::object take();

 private:
  ArrayLibrary library_;
  pybind11::object array_;                // where it is NumPy's
  SharedArray shared_;                    // its memory is none where it is NumPy's, or the tensor's
  OwnedTensor tensor_{nullptr, nullptr};  // made beforehand, with its memory
};

// Whole numbers in an array of NumPy's, as one of the library of `given` over the same memory.
pybind11::object indices_for(pybind11::handle given, pybind11::object array);

}  // namespace quire::python
