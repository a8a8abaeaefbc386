#include "errors.h"

#include <cstring>
#include <exception>
#include <new>

#include "gil.h"
#include "quire/base/check.h"
#include "quire/base/file_error.h"
#include "quire/base/interruption.h"
#include "quire/kv/ledger/block_ledger.h"
#include "quire/kv/residency/kv_storage.h"

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

// The text may name a file whose name is no UTF-8.
void set_error(PyObject* type, const char* text) {
  const auto size = static_cast<Py_ssize_t>(std::strlen(text));
  const auto message =
      py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(text, size, "backslashreplace"));
  if (message) PyErr_SetObject(type, message.ptr());
}

// OSError(code, message, path), of which Python makes FileNotFoundError and the like.
// Of such arguments Python makes the subclass that errno stands for.
void set_os_error(const FileError& error) {
  if (error.path().empty()) {
    const auto arguments = py::make_tuple(error.code(), error.what());
    return PyErr_SetObject(PyExc_OSError, arguments.ptr());
  }
  const auto path =
      py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(error.path().c_str()));
  if (!path) return;  // and Python's error says why
  const auto arguments = py::make_tuple(error.code(), error.what(), path);
  PyErr_SetObject(PyExc_OSError, arguments.ptr());
}

void translate(std::exception_ptr failure) {
  try {
    if (failure) std::rethrow_exception(failure);
  } catch (const ValueError& error) {
    set_error(PyExc_ValueError, error.what());
  } catch (const TypeError& error) {
    set_error(PyExc_TypeError, error.what());
  } catch (const IndexError& error) {
    set_error(PyExc_IndexError, error.what());
  } catch (const OutOfBlocks& error) {
    set_error(out_of_blocks, error.what());
  } catch (const OutOfMemory& error) {
    set_error(PyExc_MemoryError, error.what());
  } catch (const InvariantError& error) {
    set_error(PyExc_RuntimeError, error.what());
  } catch (const FileError& error) {
    set_os_error(error);
  } catch (const Interrupted& error) {
    if (PyErr_Occurred() == nullptr) set_error(quire_error, error.what());
  } catch (const Error& error) {
    set_error(quire_error, error.what());
  }
}

}  // namespace

void set_python_error() {
  if (PyGILState_Check() == 0) stop_thread();  // Python ended it while it ran Python's code
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
