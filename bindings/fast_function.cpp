#include "fast_function.h"

#include <pybind11/eval.h>

#include <algorithm>

#include "define.h"
#include "quire/base/check.h"

namespace quire::python {

namespace py = pybind11;

void Signature::add(const py::arg& parameter) {
  PyObject* const name = PyUnicode_InternFromString(parameter.name);
  if (name == nullptr) throw py::error_already_set();
  parameters_.push_back({name, {}});
}

void Signature::add(const py::arg_v& parameter) {
  add(static_cast<const py::arg&>(parameter));
  parameters_.back().fallback = parameter.value;
}

void Signature::add(const ParameterList& parameters) {
  for (const auto& [name, fallback] : parameters.parameters) {
    add(py::arg(name));
    parameters_.back().fallback = py::eval(fallback);
  }
}

// The number of parameters where there is none of this name.
std::size_t Signature::index_of(PyObject* name) const {
  const auto same = [&](const Parameter& p) { return p.name == name; };
  const auto equal = [&](const Parameter& p) { return PyUnicode_Compare(p.name, name) == 0; };
  auto found = std::find_if(parameters_.begin(), parameters_.end(), same);
  // names that stand in Python source are interned as well, those made at run time are not
  if (found == parameters_.end()) {
    found = std::find_if(parameters_.begin(), parameters_.end(), equal);
  }
  return static_cast<std::size_t>(found - parameters_.begin());
}

void Signature::bind(PyObject* const* arguments, Py_ssize_t num_positional, PyObject* names,
                     py::handle* values, std::size_t size) const {
  const Py_ssize_t num_names = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  bool fits = size == parameters_.size() && num_positional <= num_positional_;
  for (Py_ssize_t i = 0; fits && i < num_positional; ++i) values[i] = arguments[i];
  for (Py_ssize_t i = 0; fits && i < num_names; ++i) {
    const std::size_t index = index_of(PyTuple_GET_ITEM(names, i));
    fits = index < size && !values[index];
    if (fits) values[index] = arguments[num_positional + i];
  }
  for (std::size_t i = 0; fits && i < size; ++i) {
    if (!values[i]) values[i] = parameters_[i].fallback;
    fits = static_cast<bool>(values[i]);
  }
  if (!fits) refuse(arguments, num_positional, names);
}

void Signature::refuse(PyObject* const* arguments, Py_ssize_t num_positional,
                       PyObject* names) const {
  py::kwargs keywords;
  for (Py_ssize_t i = 0; names != nullptr && i < PyTuple_GET_SIZE(names); ++i) {
    keywords[py::handle(PyTuple_GET_ITEM(names, i))] = py::handle(arguments[num_positional + i]);
  }
  refuse_call(name_, doc_, static_cast<std::size_t>(num_positional), keywords);
}

}  // namespace quire::python
