// Methods and constructors that show Python's own signature, and name what is wrong with a call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstring>
#include <memory>
#include <string>

#include "bound_class.h"

namespace quire::python {

// Raises the TypeError of a call that fits no signature. `doc` starts with the signature, "name(a,
// *, b=None)", and a line of two dashes; `given` counts positional arguments without self.
[[noreturn]] void refuse_call(const char* function, const char* doc, std::size_t given,
                              const pybind11::kwargs& keywords);

// Adds a method to a class. `full_name` is "Class.method".
template <class Class, class Callable, class... Extra>
void def_method(Class& cls, const char* full_name, Callable callable, const char* doc,
                const Extra&... extra) {
  namespace py = pybind11;
  const char* name = std::strchr(full_name, '.') + 1;
  cls.def(name, callable, doc, extra...);
  cls.def(name, [full_name, doc](const py::args& args, const py::kwargs& keywords) -> py::object {
    using T = typename Class::type;
    if (args.empty() || !is_object_of<T>(args[0])) {
      raise<TypeError>(place(full_name, "self"), "got ", args.empty() ? "none" : type_name(args[0]),
                       ", expected a ", BoundClass<T>::name);
    }
    refuse_call(full_name, doc, args.size() - 1, keywords);
  });
}

// Adds a constructor, whose signature stands in the documentation of the class. To ask arguments
// for their values may run code that makes the same object: what is there by then stays.
template <class Class, class... Args, class... Extra>
void def_init(Class& cls, const char* name,
              std::shared_ptr<typename Class::type> (*factory)(Args...), const char* doc,
              const Extra&... extra) {
  namespace py = pybind11;
  const std::string init_doc = std::string("__init__(self, ") + (std::strchr(doc, '(') + 1);
  const auto make = [name, factory](py::detail::value_and_holder& self, Args... args) {
    auto made = factory(args...);
    if (self.holder_constructed()) {
      raise<TypeError>(
          place(name, "self"),
          "got an object that was made meanwhile, expected one that nobody else makes");
    }
    py::detail::initimpl::construct<Class>(self, std::move(made), false);
  };
  cls.def("__init__", make, py::detail::is_new_style_constructor(), init_doc.c_str(), extra...);
  cls.def(py::init([name, doc](const py::args& args, const py::kwargs& keywords) ->
                   typename Class::holder_type { refuse_call(name, doc, args.size(), keywords); }));
}

}  // namespace quire::python
