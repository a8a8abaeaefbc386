#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "fast_function.h"
#include "gil.h"
#include "linear_docs.h"
#include "operator_call.h"
#include "quire/cpu/gemm/linear_launch.h"
#include "quire/ops/linear/pack_weight.h"

namespace quire::python {
namespace {

namespace py = pybind11;

py::object py_pack_weight(py::handle w, py::handle format, py::handle group_size,
                          py::handle num_threads) {
  constexpr const char* function = "pack_weight";
  const FloatArray array = to_float_array({function, "w"}, w);
  WeightOptions options;
  options.format = to_weight_format({function, "format"}, format);
  options.group_size = to_optional_int({function, "group_size"}, group_size);
  const int threads = to_execution(function, num_threads).num_threads;
  std::shared_ptr<const Weight> weight;
  {
    const WithoutGil unlocked;
    weight = pack_weight(array.view, options, threads, function);
  }
  return py::cast(std::const_pointer_cast<Weight>(weight));  // Python's face changes nothing of it
}

py::object py_linear(py::handle x, py::handle weight, py::handle bias, py::handle out,
                     py::handle num_threads) {
  constexpr const char* function = "linear";
  const FloatArray x_array = to_float_array({function, "x"}, x);
  LinearArgs args;
  args.x = x_array.view;
  std::shared_ptr<Weight> packed;
  FloatArray weight_array;
  if (is_object_of<Weight>(weight)) {
    packed = object_of<Weight>({function, "weight"}, weight);
    args.weight = packed.get();
  } else {
    weight_array = to_float_array({function, "weight"}, weight);
    args.weight_array = weight_array.view;
  }
  const std::optional<FloatArray> bias_array = to_optional_floats({function, "bias"}, bias);
  args.bias = view_of(bias_array);
  const Execution how = to_execution(function, num_threads);
  // of other shapes there is nothing to make, and linear says so
  const bool fits = args.x.ndim == 2 && (packed || args.weight_array->ndim == 2);
  const std::int64_t shape[] = {fits ? args.x.shape[0] : 0, fits ? args.layout().num_rows : 0};
  OutArray y({function, "out"}, out, x, args.x.dtype, shape);
  args.out = y.view();
  {
    const WithoutGil unlocked;
    linear(args, how, function);
  }
  return y.take();
}

py::object unpack(const Weight& weight) {
  ArrayView view;
  py::object array =
      new_float_array(DType::float32, {weight.num_rows(), weight.num_columns()}, &view);
  const WithoutGil unlocked;
  unpack_weight(weight, view);
  return array;
}

}  // namespace

void bind_linear(py::module_& m) {
  auto weight = bind_class<Weight, std::shared_ptr<Weight>>(m, "Weight", docs::kPackedWeight);
  def_method(weight, "Weight.unpack", &unpack, docs::kUnpackWeight);
  weight
      .def_property_readonly(
          "shape",
          [](const Weight& self) { return py::make_tuple(self.num_rows(), self.num_columns()); },
          "(N, K), that of the array it was packed from.")
      .def_property_readonly(
          "format", [](const Weight& self) { return std::string(name_of(self.format())); },
          "Of the numbers: \"float32\", \"float16\", \"bfloat16\", \"int8\" or \"int4\".")
      .def_property_readonly(
          "group_size",
          [](const Weight& self) -> py::object {
            if (self.group_size() == 0) return py::none();
            return py::int_(self.group_size());
          },
          "Numbers of K that share a scale and an offset; None where there are no groups.")
      .def_property_readonly("nbytes", &Weight::nbytes, "Bytes that it takes, padding included.")
      .def("__repr__", [](const Weight& self) {
        return concat("Weight([", self.num_rows(), ", ", self.num_columns(), "], ",
                      name_of(self.format()), ", ", self.nbytes(), " bytes)");
      });
  FastFunction<&py_pack_weight>::define(m, "pack_weight", docs::kPackWeight, py::arg("w"),
                                        py::kw_only(), py::arg("format") = "bfloat16",
                                        py::arg("group_size") = py::none(),
                                        py::arg("num_threads") = py::none());
  FastFunction<&py_linear>::define(m, "linear", docs::kLinear, py::arg("x"), py::arg("weight"),
                                   py::kw_only(), py::arg("bias") = py::none(),
                                   py::arg("out") = py::none(),
                                   py::arg("num_threads") = py::none());
}

}  // namespace quire::python
