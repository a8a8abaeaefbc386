#include "errors.h"

#include <exception>
#include <new>

#include "quire/base/check.h"
#include "quire/kv/block_ledger.h"
#include "quire/kv/kv_storage.h"

namespace quire::python {
namespace {

namespace py = pybind11;

// Owned by the module, which is never unloaded.
PyObject* quire_error = nullptr;
PyObject* out_of_blocks = nullptr;

PyObject* new_exception(py::module_& m, const char* name, const char* doc, py::object bases) {
  const std::string full_name = std::string("quire.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(full_name.c_str(), doc, bases.ptr(), nullptr);
  if (type == nullptr) throw py::error_already_set();
  m.attr(name) = py::reinterpret_borrow<py::object>(type);
  return type;
}

void translate(std::exception_ptr failure) {
  try {
    if (failure) std::rethrow_exception(failure);
  } catch (const ValueError& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const TypeError& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  } catch (const IndexError& error) {
    PyErr_SetString(PyExc_IndexError, error.what());
  } catch (const OutOfBlocks& error) {
    PyErr_SetString(out_of_blocks, error.what());
  } catch (const OutOfMemory& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const FileError& error) {
    // Of two arguments Python makes the subclass that errno stands for.
    const py::object arguments = py::make_tuple(error.code(), error.what());
    PyErr_SetObject(PyExc_OSError, arguments.ptr());
  } catch (const InvariantError& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  } catch (const Error& error) {
    PyErr_SetString(quire_error, error.what());
  }
}

}  // namespace

void set_python_error() {
  try {
    translate(std::current_exception());
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

void bind_errors(py::module_& m) {
  quire_error = new_exception(m, "QuireError", "An error of Quire's own kind.",
                              py::reinterpret_borrow<py::object>(PyExc_Exception));
  out_of_blocks =
      new_exception(m, "OutOfBlocks",
                    "The pool has fewer free blocks than were asked for. Nothing has been changed.",
                    py::make_tuple(py::handle(quire_error), py::handle(PyExc_MemoryError)));
  py::register_exception_translator(translate);
}

}  // namespace quire::python
