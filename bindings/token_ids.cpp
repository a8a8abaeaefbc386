#include "token_ids.h"

#include "numpy_view.h"
#include "quire/base/check.h"

namespace quire::python {

namespace py = pybind11;

namespace {

// Of a list, between two looks for signals.
constexpr std::size_t kIdsPerLook = 1 << 16;

std::int64_t to_token_id(Argument argument, py::handle item, Py_ssize_t index) {
  if (PyBool_Check(item.ptr()) || !PyIndex_Check(item.ptr())) {
    raise<TypeError>(argument.place(), "got ", type_name(item), " at index ", index,
                     ", expected an int");
  }
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
  if (!number) throw py::error_already_set();
  int overflow = 0;
  const long long id = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  if (overflow != 0) {
    raise<ValueError>(argument.place(), "got ", std::string(py::str(number)), " at index ", index,
                      ", expected -2**63 to 2**63 - 1");
  }
  return id;
}

}  // namespace

std::vector<std::int64_t> to_token_ids(Argument argument, py::handle object) {
  std::vector<std::int64_t> ids;
  const bool is_list = PyList_Check(object.ptr()) || PyTuple_Check(object.ptr());
  if (!is_list &&
      (py::hasattr(object, "__array_interface__") || py::hasattr(object, "__dlpack__"))) {
    const IndexArray array = to_index_array(argument, object);
    if (array.view.ndim != 1) {
      raise<ValueError>(argument.place(), "got shape ", shape_text(array.view),
                        ", expected one axis");
    }
    ids.resize(static_cast<std::size_t>(array.view.shape[0]));
    for (std::size_t i = 0; i < ids.size(); ++i)
      ids[i] = array.view.at(static_cast<std::int64_t>(i));
    return ids;
  }
  if (!is_list && !py::isinstance<py::iterable>(object)) {
    raise<TypeError>(argument.place(), "got ", type_name(object),
                     ", expected an array of int32 or int64, or a list of ints");
  }
  // a copy of a list: to ask an item for its number may run code that changes the list
  const auto items = py::reinterpret_steal<py::tuple>(PySequence_Tuple(object.ptr()));
  if (!items) throw py::error_already_set();
  ids.reserve(items.size());
  for (const py::handle item : items) {
    if (ids.size() % kIdsPerLook == kIdsPerLook - 1 && PyErr_CheckSignals() != 0) {
      throw py::error_already_set();
    }
    ids.push_back(to_token_id(argument, item, static_cast<Py_ssize_t>(ids.size())));
  }
  return ids;
}

}  // namespace quire::python
