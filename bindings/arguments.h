// Python numbers and words as C++ values. Every error names the function and the argument.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "quire/base/check.h"
#include "quire/cpu/execution.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire::python {

// Where an argument stands; spelled out only when something is wrong with it.
struct Argument {
  const char* function;
  const char* name;

  std::string place() const;
};

// A whole number, of any type with __index__ but bool. Throws TypeError, and ValueError where it
// does not fit in 64 bits.
std::int64_t to_int(Argument argument, pybind11::handle object);
std::optional<std::int64_t> to_optional_int(Argument argument, pybind11::handle object);
// The argument `num_threads` of a function, 1 to 1024, or None for the default, and the kernels
// that run on them. Made under the GIL, as the environment is Python's to change. Throws TypeError
// and ValueError.
Execution to_execution(const char* function, pybind11::handle num_threads);

// A real number. Throws TypeError, and ValueError for an int beyond every float.
std::optional<double> to_optional_double(Argument argument, pybind11::handle object);

// True or False, of Python or NumPy. Throws TypeError.
bool to_bool(Argument argument, pybind11::handle object);

// Throws TypeError. The text is the object's.
std::string_view to_text(Argument argument, pybind11::handle object);
std::string to_string(Argument argument, pybind11::handle object);

// A path of the file system: str, bytes or os.PathLike. Throws TypeError, ValueError for a NUL in
// it.
std::string to_path(Argument argument, pybind11::handle object);

// "NHD" or "HND". Throws ValueError, or TypeError.
Layout to_layout(Argument argument, pybind11::handle object);

// The name of an object's type, for TypeErrors.
std::string type_name(pybind11::handle object);

// ask(), which runs code of `object`. What that raises becomes a TypeError that names the argument.
template <class Ask>
auto ask_of(Argument argument, pybind11::handle object, Ask ask) {
  try {
    return ask();
  } catch (const pybind11::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    raise<TypeError>(argument.place(), "got ", type_name(object),
                     " that does not show its memory (", type_name(error.value()), ": ",
                     std::string(pybind11::str(error.value())),
                     "), expected an array in CPU memory");
  }
}

}  // namespace quire::python
