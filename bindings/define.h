// Functions and methods that show Python's own signature, and name what is wrong with a call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstring>
#include <string>

namespace quire::python {

// Raises the TypeError of a call that fits no signature. `doc` starts with the signature, "name(a,
// *, b=None)", and a line of two dashes; `given` counts positional arguments without self.
[[noreturn]] void refuse_call(const char* function, const char* doc, std::size_t given,
                              const pybind11::kwargs& keywords);

// Adds `callable` to a module, under `name`, which `doc` starts with.
template <class Callable, class... Extra>
void def_function(pybind11::module_& m, const char* name, Callable callable, const char* doc,
                  const Extra&... extra) {
  namespace py = pybind11;
  m.def(name, callable, doc, extra...);
  m.def(name, [name, doc](const py::args& args, const py::kwargs& keywords) -> py::object {
    refuse_call(name, doc, args.size(), keywords);
  });
}

// Adds a method to a class. `full_name` is "Class.method".
template <class Class, class Callable, class... Extra>
void def_method(Class& cls, const char* full_name, Callable callable, const char* doc,
                const Extra&... extra) {
  namespace py = pybind11;
  const char* name = std::strchr(full_name, '.') + 1;
  cls.def(name, callable, doc, extra...);
  cls.def(name, [full_name, doc](const py::args& args, const py::kwargs& keywords) -> py::object {
    refuse_call(full_name, doc, args.size() - 1, keywords);
  });
}

// Adds a constructor, whose signature stands in the documentation of the class.
template <class Class, class Factory, class... Extra>
void def_init(Class& cls, const char* name, Factory factory, const char* doc,
              const Extra&... extra) {
  namespace py = pybind11;
  const std::string init_doc = std::string("__init__(self, ") + (std::strchr(doc, '(') + 1);
  cls.def(py::init(factory), init_doc.c_str(), extra...);
  cls.def(py::init([name, doc](const py::args& args, const py::kwargs& keywords) ->
                   typename Class::holder_type { refuse_call(name, doc, args.size(), keywords); }));
}

}  // namespace quire::python
