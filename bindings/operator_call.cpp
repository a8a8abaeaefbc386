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

DType to_weight_format(Argument argument, pybind11::handle object) {
  const std::string_view name = to_text(argument, object);
  for (const DType format :
       {DType::float32, DType::float16, DType::bfloat16, DType::int8, DType::int4}) {
    if (name == name_of(format)) return format;
  }
  raise<ValueError>(argument.place(), "got \"", name,
                    "\", expected float32, float16, bfloat16, int8 or int4");
}

}  // namespace quire::python
