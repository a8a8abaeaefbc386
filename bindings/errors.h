// Quire's C++ errors as Python's exceptions.
#pragma once

#include <pybind11/pybind11.h>

namespace quire::python {

// Adds QuireError and OutOfBlocks to the module, and translates every quire::Error from now on.
void bind_errors(pybind11::module_& m);

// Makes the C++ exception that is being handled Python's, as pybind11 does for functions of its
// own.
void set_python_error();

}  // namespace quire::python
