// Functions of the module, which Python calls straight away.
//
// pybind11's own dispatcher makes a string of the name of every keyword parameter in each call that
// names one: with a dozen of them that takes longer than a small attention. A FastFunction makes
// them once, and help() shows it as a function, not as a method of pybind11's records. Its C++
// function takes a pybind11::handle for each parameter of the Python signature, and raises what C++
// throws, as any other.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "errors.h"

namespace quire::python {

// The parameters of one function. Never destroyed, as the interpreter may be gone by then.
class Signature {
 public:
  // `doc` starts with the signature, for the message of a call that does not fit. The parameters
  // follow as arguments of pybind11's def: arg(name) is required, arg(name) = value is not, and
  // those after kw_only() are given by name alone.
  template <class... Parameters>
  Signature(const char* name, const char* doc, const Parameters&... parameters)
      : name_(name), doc_(doc) {
    (add(parameters), ...);
    if (num_positional_ < 0) num_positional_ = static_cast<Py_ssize_t>(parameters_.size());
  }

  // What each of `size` parameters is given: arguments of the vector call, or its default. Throws
  // TypeError.
  void bind(PyObject* const* arguments, Py_ssize_t num_positional, PyObject* names,
            pybind11::handle* values, std::size_t size) const;

 private:
  struct Parameter {
    PyObject* name;             // interned
    pybind11::object fallback;  // null: required
  };

  void add(const pybind11::arg& parameter);
  void add(const pybind11::arg_v& parameter);
  void add(const pybind11::kw_only&) {
    num_positional_ = static_cast<Py_ssize_t>(parameters_.size());
  }
  std::size_t index_of(PyObject* name) const;
  [[noreturn]] void refuse(PyObject* const* arguments, Py_ssize_t num_positional,
                           PyObject* names) const;

  const char* name_;
  const char* doc_;
  std::vector<Parameter> parameters_;
  Py_ssize_t num_positional_ = -1;
};

template <auto Function>
class FastFunction;

template <class... Handles, pybind11::object (*Function)(Handles...)>
class FastFunction<Function> {
 public:
  // Adds the function to a module; parameters as for Signature.
  template <class... Parameters>
  static void define(pybind11::module_& m, const char* name, const char* doc,
                     const Parameters&... parameters) {
    signature_ = new Signature(name, doc, parameters...);
    // by way of a function pointer that fits any, as Python's own headers do
    const auto any = reinterpret_cast<void (*)()>(&call);
    definition_ = {name, reinterpret_cast<PyCFunction>(any), METH_FASTCALL | METH_KEYWORDS, doc};
    PyObject* const function =
        PyCFunction_NewEx(&definition_, m.ptr(), pybind11::object(m.attr("__name__")).ptr());
    if (function == nullptr) throw pybind11::error_already_set();
    m.attr(name) = pybind11::reinterpret_steal<pybind11::object>(function);
  }

 private:
  static PyObject* call(PyObject*, PyObject* const* arguments, Py_ssize_t num_positional,
                        PyObject* names) {
    try {
      std::array<pybind11::handle, sizeof...(Handles)> values;
      signature_->bind(arguments, num_positional, names, values.data(), values.size());
      return apply(values, std::index_sequence_for<Handles...>()).release().ptr();
    } catch (...) {
      set_python_error();
      return nullptr;
    }
  }

  template <class Values, std::size_t... I>
  static pybind11::object apply(const Values& values, std::index_sequence<I...>) {
    return Function(values[I]...);
  }

  static inline const Signature* signature_;
  static inline PyMethodDef definition_;
};

}  // namespace quire::python
