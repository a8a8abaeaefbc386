// The library that an array belongs to, as its type tells: how tensors are had from its arrays, and
// made into them.
#pragma once

#include <pybind11/pybind11.h>

#include "dlpack_abi.h"

namespace quire::python {

// What is known of a type of arrays. Nothing is imported to find it out: an array's own library has
// been imported by whoever made the array.
struct ArrayLibrary {
  // Takes objects of exactly this type apart; null where only __dlpack__ can.
  const dlpack::ExchangeApi* opens = nullptr;
  // Some of them need a gradient, which no tensor of DLPack has: __dlpack__ refuses those.
  bool has_gradients = false;

  // How arrays of the library are made: by its table of functions, or else by its from_dlpack, a
  // function of Python's. Both are null where there is neither, and for NumPy, whose own does not
  // know bfloat16.
  const dlpack::ExchangeApi* makes = nullptr;
  pybind11::object from_dlpack;

  bool makes_arrays() const { return makes != nullptr || from_dlpack; }
};

// The library of an object's type, which is no ndarray. The first types that are asked for are
// remembered.
ArrayLibrary library_of(pybind11::handle object);

}  // namespace quire::python
