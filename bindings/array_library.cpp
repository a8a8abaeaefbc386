#include "array_library.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <mutex>

namespace quire::python {
namespace {

namespace py = pybind11;

// Remembered types live as long as the process, so there are few: a program's arrays are of two or
// three types, and of those made in a loop none but the first are kept alive by this.
constexpr std::size_t kMostRemembered = 16;

struct Remembered {
  PyTypeObject* type = nullptr;
  const dlpack::ExchangeApi* opens = nullptr;
  bool has_gradients = false;
  const dlpack::ExchangeApi* makes = nullptr;
  PyObject* from_dlpack = nullptr;
};

// Threads of a Python without the GIL meet here: entries below the number stay as they are, and one
// thread at a time adds to them.
std::array<Remembered, kMostRemembered> memory;
std::atomic<std::size_t> num_remembered = 0;
std::mutex adding;

// The attribute that a type defines itself, or none. A subclass may show its memory otherwise than
// its base does, so what is inherited counts for nothing here.
py::object own_attribute(py::handle type, const char* name) {
  const py::object attributes = type.attr("__dict__");
  return attributes.contains(name) ? py::object(attributes[name]) : py::object();
}

const dlpack::ExchangeApi* exchange_of(py::handle type) {
  const py::object capsule = own_attribute(type, "__dlpack_c_exchange_api__");
  if (!capsule || PyCapsule_IsValid(capsule.ptr(), dlpack::kExchangeName) == 0) return nullptr;
  const auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeName));
  while (api != nullptr && api->major != 1) api = api->previous;
  return api;
}

// The from_dlpack of a module, or none.
py::object from_dlpack_of(py::handle module) { return py::getattr(module, "from_dlpack", {}); }

// That of the namespace which an object names by the array API standard, or of the package of its
// type, or of a base of it.
py::object find_from_dlpack(py::handle object) {
  const py::handle type(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())));
  if (py::hasattr(type, "__array_namespace__")) {
    try {
      if (py::object found = from_dlpack_of(object.attr("__array_namespace__")())) return found;
    } catch (const py::error_already_set& error) {
      if (!error.matches(PyExc_Exception)) throw;  // a namespace that cannot be had is none
    }
  }
  const py::dict modules = py::module_::import("sys").attr("modules");
  for (const py::handle base : py::tuple(type.attr("__mro__"))) {
    const py::object name = py::getattr(base, "__module__", py::none());
    if (!py::isinstance<py::str>(name)) continue;
    const py::object package = name.attr("partition")(".")[py::int_(0)];
    if (!modules.contains(package)) continue;
    if (py::object found = from_dlpack_of(modules[package])) return found;
  }
  return {};
}

ArrayLibrary find_library(py::handle object) {
  const py::handle type(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())));
  ArrayLibrary found;
  found.opens = exchange_of(type);
  found.has_gradients = py::hasattr(type, "requires_grad");
  for (const py::handle base : py::tuple(type.attr("__mro__"))) {
    found.makes = exchange_of(base);
    if (found.makes != nullptr) return found;
  }
  found.from_dlpack = find_from_dlpack(object);
  const py::object numpys = py::module_::import("numpy").attr("from_dlpack");
  if (found.from_dlpack.is(numpys)) found.from_dlpack = {};
  return found;
}

}  // namespace

ArrayLibrary library_of(py::handle object) {
  PyTypeObject* const type = Py_TYPE(object.ptr());
  const std::size_t count = num_remembered.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    const Remembered& known = memory[i];
    if (known.type != type) continue;
    return {known.opens, known.has_gradients, known.makes,
            py::reinterpret_borrow<py::object>(known.from_dlpack)};
  }
  // what is no tensor is not remembered: a wrong argument may be of any type
  if (!py::hasattr(reinterpret_cast<PyObject*>(type), "__dlpack__")) return {};
  const ArrayLibrary found = find_library(object);  // runs Python's code, so without the lock
  const std::lock_guard lock(adding);
  const std::size_t next = num_remembered.load(std::memory_order_relaxed);
  if (next == kMostRemembered) return found;
  Py_INCREF(reinterpret_cast<PyObject*>(type));
  memory[next] = {type, found.opens, found.has_gradients, found.makes,
                  py::object(found.from_dlpack).release().ptr()};
  num_remembered.store(next + 1, std::memory_order_release);
  return found;
}

}  // namespace quire::python
