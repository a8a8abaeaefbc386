#include "operator_call.h"

namespace quire::python {

namespace py = pybind11;

double to_double(Argument argument, py::handle object) {
  if (const auto number = to_optional_double(argument, object)) return *number;
  raise<TypeError>(argument.place(), "got None, expected a number");
}

OutArray::OutArray(Argument argument, py::handle out, py::handle given, DType dtype,
                   std::span<const std::int64_t> shape) {
  if (out.is_none()) {
    made_ = ResultArray(given, dtype, shape);
  } else {
    given_ = to_float_array(argument, out);
    out_ = py::reinterpret_borrow<py::object>(out);
  }
}

py::object OutArray::take() { return made_ ? made_.take() : std::move(out_); }

}  // namespace quire::python
