// A Python list, or other iterable, of block tables.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "arguments.h"
#include "bound_class.h"
#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"

namespace quire::python {

// Keeps every table alive, whatever becomes of the iterable. Throws TypeError.
class TableList {
 public:
  TableList(const char* function, pybind11::handle iterable) {
    namespace py = pybind11;
    const Argument argument{function, "tables"};
    const auto list = py::reinterpret_steal<py::object>(PySequence_Fast(iterable.ptr(), ""));
    if (!list) {
      if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
      PyErr_Clear();
      raise<TypeError>(argument.place(), "got ", type_name(iterable),
                       ", expected a list, or other iterable, of BlockTable");
    }
    std::size_t index = 0;
    for (const py::handle item : list) {
      owners_.push_back(object_of<BlockTable>(argument, item, " at index ", index));
      tables_.push_back(owners_.back().get());
      ++index;
    }
  }

  const std::vector<const BlockTable*>& tables() const { return tables_; }
  const std::vector<std::shared_ptr<BlockTable>>& owners() const { return owners_; }

 private:
  std::vector<std::shared_ptr<BlockTable>> owners_;
  std::vector<const BlockTable*> tables_;
};

}  // namespace quire::python
