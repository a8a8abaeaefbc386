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
#include <cstring>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "errors.h"

namespace quire::python {

// Parameters that several functions share, which have defaults, as Python spells them.
struct ParameterList {
  struct Parameter {
    const char* name;
    const char* fallback;
  };
  std::span<const Parameter> parameters;
};

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
  void add(const ParameterList& parameters);
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

// How a parameter of the C++ function is made of values: a handle is one of them. What stands for
// several, as a struct of options does, says so in a specialisation.
template <class Parameter>
struct Taken {
  static constexpr std::size_t kValues = 1;
  static pybind11::handle from(const pybind11::handle* values) { return values[0]; }
};

template <auto Function>
class FastFunction;

template <class... Taking, pybind11::object (*Function)(Taking...)>
class FastFunction<Function> {
 public:
  // Adds the function to a module; parameters as for Signature.
  template <class... Parameters>
  static void define(pybind11::module_& m, const char* name, const char* doc,
                     const Parameters&... parameters) {
    describe(name, name, doc, &call, parameters...);
    PyObject* const function =
        PyCFunction_NewEx(&definition_, m.ptr(), pybind11::object(m.attr("__name__")).ptr());
    if (function == nullptr) throw pybind11::error_already_set();
    m.attr(name) = pybind11::reinterpret_steal<pybind11::object>(function);
  }

  // Adds it to a class as the method that `full_name`, "Class.method", names; its first parameter
  // is the object, and has no place in the signature.
  template <class... Parameters>
  static void define_method(pybind11::handle cls, const char* full_name, const char* doc,
                            const Parameters&... parameters) {
    const char* const name = std::strchr(full_name, '.') + 1;
    describe(name, full_name, doc, &call_method, parameters...);
    PyObject* const method =
        PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(cls.ptr()), &definition_);
    if (method == nullptr) throw pybind11::error_already_set();
    pybind11::setattr(cls, name, pybind11::reinterpret_steal<pybind11::object>(method));
  }

 private:
  using Call = PyObject*(PyObject*, PyObject* const*, Py_ssize_t, PyObject*);

  template <class... Parameters>
  static void describe(const char* name, const char* full_name, const char* doc, Call* call,
                       const Parameters&... parameters) {
    signature_ = new Signature(full_name, doc, parameters...);
    // by way of a function pointer that fits any, as Python's own headers do
    const auto any = reinterpret_cast<void (*)()>(call);
    definition_ = {name, reinterpret_cast<PyCFunction>(any), METH_FASTCALL | METH_KEYWORDS, doc};
  }

  static PyObject* call(PyObject*, PyObject* const* arguments, Py_ssize_t num_positional,
                        PyObject* names) {
    return call_with<0>(nullptr, arguments, num_positional, names);
  }

  static PyObject* call_method(PyObject* self, PyObject* const* arguments,
                               Py_ssize_t num_positional, PyObject* names) {
    return call_with<1>(self, arguments, num_positional, names);
  }

  // The first kGiven values are there without the signature.
  template <std::size_t kGiven>
  static PyObject* call_with(PyObject* self, PyObject* const* arguments, Py_ssize_t num_positional,
                             PyObject* names) {
    try {
      std::array<pybind11::handle, (Taken<Taking>::kValues + ... + 0)> values;
      if constexpr (kGiven > 0) values[0] = self;
      signature_->bind(arguments, num_positional, names, values.data() + kGiven,
                       values.size() - kGiven);
      return apply(values.data(), std::index_sequence_for<Taking...>()).release().ptr();
    } catch (...) {
      set_python_error();
      return nullptr;
    }
  }

  template <std::size_t... I>
  static pybind11::object apply(const pybind11::handle* values, std::index_sequence<I...>) {
    return Function(Taken<Taking>::from(values + first_value(I))...);
  }

  // Where the values of a parameter begin.
  static constexpr std::size_t first_value(std::size_t parameter) {
    constexpr std::array<std::size_t, sizeof...(Taking)> counts = {Taken<Taking>::kValues...};
    return std::accumulate(counts.begin(), counts.begin() + parameter, std::size_t{0});
  }

  static inline const Signature* signature_;
  static inline PyMethodDef definition_;
};

}  // namespace quire::python
