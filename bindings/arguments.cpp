#include "arguments.h"

namespace quire::python {

namespace py = pybind11;

std::string Argument::place() const { return quire::place(function, name); }

std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

std::int64_t to_int(Argument argument, py::handle object) {
  py::object number;
  if (!PyBool_Check(object.ptr()) && PyIndex_Check(object.ptr())) {
    number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  }
  if (!number) {
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
    PyErr_Clear();
    raise<TypeError>(argument.place(), "got ", type_name(object), ", expected an int");
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  if (overflow != 0) {
    raise<ValueError>(argument.place(), "got ", std::string(py::str(number)),
                      ", expected a number of 64 bits");
  }
  return value;
}

std::optional<std::int64_t> to_optional_int(Argument argument, py::handle object) {
  if (object.is_none()) return std::nullopt;
  return to_int(argument, object);
}

Execution to_execution(const char* function, py::handle num_threads) {
  const Argument argument{function, "num_threads"};
  const auto threads = to_optional_int(argument, num_threads);
  if (threads && (*threads < 1 || *threads > 1024)) {
    raise<ValueError>(argument.place(), "got ", *threads, ", expected 1 to 1024, or None");
  }
  return default_execution(static_cast<int>(threads.value_or(0)), function);
}

std::optional<double> to_optional_double(Argument argument, py::handle object) {
  if (object.is_none()) return std::nullopt;
  if (PyFloat_Check(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  const bool number = !PyBool_Check(object.ptr()) && PyNumber_Check(object.ptr());
  const double value = number ? PyFloat_AsDouble(object.ptr()) : 0.0;
  if (!number || PyErr_Occurred()) {
    const bool too_large = number && PyErr_ExceptionMatches(PyExc_OverflowError);
    PyErr_Clear();
    if (too_large)
      raise<ValueError>(argument.place(),
                        "got an int too large for a float, expected a float or None");
    raise<TypeError>(argument.place(), "got ", type_name(object), ", expected a float or None");
  }
  return value;
}

bool to_bool(Argument argument, py::handle object) {
  if (object.ptr() == Py_True) return true;
  if (object.ptr() == Py_False) return false;
  const std::string name = type_name(object);
  if (name == "numpy.bool" || name == "numpy.bool_") return PyObject_IsTrue(object.ptr()) == 1;
  raise<TypeError>(argument.place(), "got ", name, ", expected a bool");
}

std::string_view to_text(Argument argument, py::handle object) {
  if (!PyUnicode_Check(object.ptr())) {
    raise<TypeError>(argument.place(), "got ", type_name(object), ", expected a str");
  }
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object.ptr(), &size);
  if (text == nullptr) throw py::error_already_set();
  return {text, static_cast<std::size_t>(size)};
}

std::string to_string(Argument argument, py::handle object) {
  return std::string(to_text(argument, object));
}

std::string to_path(Argument argument, py::handle object) {
  PyObject* bytes = nullptr;
  if (PyUnicode_FSConverter(object.ptr(), &bytes) == 0) {
    if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_ValueError)) {
      throw py::error_already_set();
    }
    const bool is_type = PyErr_ExceptionMatches(PyExc_TypeError);
    PyErr_Clear();
    if (is_type) {
      raise<TypeError>(argument.place(), "got ", type_name(object),
                       ", expected a str, bytes or os.PathLike");
    }
    raise<ValueError>(argument.place(), "got ", std::string(py::repr(object)),
                      ", expected a path without NUL, in the file system's encoding");
  }
  return py::reinterpret_steal<py::bytes>(bytes);
}

Layout to_layout(Argument argument, py::handle object) {
  const std::string_view name = to_text(argument, object);
  if (name == "NHD") return Layout::NHD;
  if (name == "HND") return Layout::HND;
  raise<ValueError>(argument.place(), "got \"", name, "\", expected NHD or HND");
}

}  // namespace quire::python
