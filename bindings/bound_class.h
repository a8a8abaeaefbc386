// Python's classes over those of C++, and their objects, which may never have been made.
//
// Where __init__ has failed or was never called, an object of Python has none of C++. pybind11
// would hand functions memory then that nobody has initialised, so each class here says instead
// that it raises TypeError: for every method and property. Functions that take such an object
// beside self ask object_of, which names their argument.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>

#include "arguments.h"
#include "quire/base/check.h"

namespace quire::python {

// What Python knows of the class, from bind_class on.
template <class T>
struct BoundClass {
  static inline const char* name = nullptr;
  static inline pybind11::detail::type_info* type = nullptr;
};

inline constexpr const char* kNeverMade =
    " whose __init__ failed or never ran, expected one that it has made";

// Adds a class to the module; each one comes from here.
template <class T, class... Holder>
pybind11::class_<T, Holder...> bind_class(pybind11::module_& m, const char* name, const char* doc) {
  namespace py = pybind11;
  py::class_<T, Holder...> cls(m, name, doc);
  BoundClass<T>::name = name;
  BoundClass<T>::type = py::detail::get_type_info(reinterpret_cast<PyTypeObject*>(cls.ptr()));
  // pybind11 asks for memory by this only for an object that has none when a function takes it
  BoundClass<T>::type->operator_new = [](std::size_t) -> void* {
    raise<TypeError>(place(BoundClass<T>::name, "self"), "got an object", kNeverMade);
  };
  return cls;
}

// A class that another file has bound, to add to it.
template <class T>
pybind11::class_<T, std::shared_ptr<T>> bound_class() {
  namespace py = pybind11;
  return py::reinterpret_borrow<py::class_<T, std::shared_ptr<T>>>(
      reinterpret_cast<PyObject*>(BoundClass<T>::type->type));
}

template <class T>
bool is_object_of(pybind11::handle object) {
  return PyObject_TypeCheck(object.ptr(), BoundClass<T>::type->type) != 0;
}

// The object of C++ behind one of Python. `where` goes on with what was got, in messages. Throws
// TypeError.
template <class T, class... Where>
std::shared_ptr<T> object_of(Argument argument, pybind11::handle object, const Where&... where) {
  namespace py = pybind11;
  const char* const name = BoundClass<T>::name;
  if (!is_object_of<T>(object)) {
    raise<TypeError>(argument.place(), "got ", type_name(object), where..., ", expected a ", name);
  }
  auto* const instance = reinterpret_cast<py::detail::instance*>(object.ptr());
  const auto made = instance->get_value_and_holder(BoundClass<T>::type);
  if (!made.holder_constructed()) {
    raise<TypeError>(argument.place(), "got a ", name, where..., kNeverMade);
  }
  return made.template holder<std::shared_ptr<T>>();
}

}  // namespace quire::python
