// A function of Python's that C++ calls, and lets go of, on any thread, with or without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <utility>

#include "gil.h"

namespace quire::python {

class PythonCallback {
 public:
  explicit PythonCallback(pybind11::object callback) : callback_(std::move(callback)) {}
  ~PythonCallback() {
    if (!Py_IsInitialized()) {
      callback_.release();  // nobody is left to take it back
      return;
    }
    const WithGil locked;
    call_or_stop([this] { callback_ = pybind11::object(); });
  }
  PythonCallback(const PythonCallback&) = delete;
  PythonCallback& operator=(const PythonCallback&) = delete;

  const pybind11::object& get() const { return callback_; }

  // Calls it with the tuple that arguments() makes; what it raises goes to sys.unraisablehook.
  template <class Arguments>
  void call(Arguments arguments) const noexcept {
    const WithGil locked;
    const pybind11::error_scope pending;  // what is being raised where a table goes
    try {
      const pybind11::tuple made = arguments();
      call_or_stop([&] {
        PyObject* const result = PyObject_CallObject(callback_.ptr(), made.ptr());
        if (result == nullptr) PyErr_WriteUnraisable(callback_.ptr());
        Py_XDECREF(result);
      });
    } catch (const std::exception&) {
      return;  // no memory for the event: it is lost
    }
  }

 private:
  pybind11::object callback_;
};

}  // namespace quire::python
