#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "attention_call.h"
#include "bindings.h"
#include "define.h"
#include "gil.h"
#include "numpy_view.h"
#include "quire/base/check.h"
#include "quire/paged/step.h"
#include "step_docs.h"
#include "table_list.h"

namespace quire::python {
namespace {

namespace py = pybind11;

// One number for all of `count` tables, or one for each.
std::vector<std::int64_t> counts_of(py::handle num_tokens, std::size_t count) {
  const Argument argument{"Step", "num_tokens"};
  if (!py::isinstance<py::iterable>(num_tokens)) {
    return std::vector<std::int64_t>(count, to_int(argument, num_tokens));
  }
  const auto items = py::reinterpret_steal<py::object>(PySequence_Tuple(num_tokens.ptr()));
  if (!items) throw py::error_already_set();
  std::vector<std::int64_t> counts;
  for (const py::handle item : items) counts.push_back(to_int(argument, item));
  return counts;
}

std::shared_ptr<Step> new_step(py::handle tables, py::handle num_tokens) {
  const TableList list("Step", tables);
  const std::vector<std::int64_t> counts = counts_of(num_tokens, list.owners().size());
  const WithoutGil unlocked;
  return std::make_shared<Step>(list.owners(), counts);
}

void write(const Step& step, py::handle k, py::handle v, py::handle layer) {
  constexpr const char* function = "Step.write";
  const FloatArray keys = to_float_array({function, "k"}, k);
  const std::optional<FloatArray> values = to_optional_floats({function, "v"}, v);
  const std::int64_t index = to_int({function, "layer"}, layer);
  const Execution how = default_execution();  // under the GIL, as it reads the environment
  const WithoutGil unlocked;
  step.write(keys.view, view_of(values), index, how);
}

py::object py_attend(py::handle self, py::handle q, py::handle k, py::handle v, py::handle layer,
                     const AttentionOptions& options) {
  constexpr const char* function = "Step.attend";
  auto& step = self.cast<Step&>();
  AttentionCall call(function, q, options);
  call.require_options_of_tables();
  if (call.query().cu_seqlens_q) {
    raise<ValueError>(place(function, "cu_seqlens_q"),
                      "got some, expected None: a step has its own");
  }
  const std::int64_t index = to_int({function, "layer"}, layer);
  const KvGeometry& geometry = step.tables()[0]->pool()->geometry();
  if (k.is_none() ? !v.is_none() : v.is_none() && !geometry.shared) {
    raise<TypeError>(place(function, k.is_none() ? "k" : "v"),
                     "got None, expected an array, or None",
                     " for both k and v, where they have been written");
  }
  const std::optional<FloatArray> keys = to_optional_floats({function, "k"}, k);
  const std::optional<FloatArray> values = to_optional_floats({function, "v"}, v);
  call.take_pool(geometry.dtype);
  call.make_outputs(geometry.v_head_dim);
  {
    const WithoutGil unlocked;
    if (keys) {
      step.attend(call.query(), keys->view, view_of(values), index, call.implementation(),
                  call.how(), call.block_mass());
    } else {
      step.attend(call.query(), index, call.implementation(), call.how(), call.block_mass());
    }
  }
  return call.result();
}

template <class T>
py::object array_of(std::span<const T> values) {
  T* data = nullptr;
  py::object array = new_index_array({std::ssize(values)}, &data);
  std::copy(values.begin(), values.end(), data);
  return array;
}

}  // namespace

void bind_step(py::module_& m) {
  auto step = bind_class<Step, std::shared_ptr<Step>>(m, "Step", docs::kStep);
  def_init(step, "Step", &new_step, docs::kStep, py::arg("tables"), py::arg("num_tokens"));
  def_method(step, "Step.write", &write, docs::kStepWrite, py::arg("k"), py::arg("v") = py::none(),
             py::kw_only(), py::arg("layer") = 0);
  def_method(step, "Step.take_back", &Step::take_back, docs::kTakeBack,
             py::call_guard<WithoutGil>());
  FastFunction<&py_attend>::define_method(step, "Step.attend", step_attend_doc(), py::arg("q"),
                                          py::arg("k"), py::arg("v") = py::none(), py::kw_only(),
                                          py::arg("layer") = 0, attention_options());
  step.def_property_readonly("num_tokens", &Step::num_tokens, "New tokens of all tables, T.")
      .def_property_readonly(
          "positions", [](const Step& self) { return array_of(self.positions()); },
          "Where the new tokens stand, int64 [T].")
      .def_property_readonly(
          "cu_seqlens_q", [](const Step& self) { return array_of(self.cu_seqlens_q()); },
          "Rows cu[i]:cu[i + 1] are the new tokens of table i, int32 [B + 1].")
      .def_property_readonly(
          "slot_mapping", [](const Step& self) { return array_of(self.slot_mapping()); },
          "The slots of the new tokens, as BlockTable.extend gives them, int64 [T].")
      .def("__enter__",
           [](py::object self) {
             object_of<Step>({"Step.__enter__", "self"}, self);
             return self;
           })
      .def("__exit__",
           [](Step& self, py::handle type, py::handle, py::handle) {
             if (type.is_none()) return;
             const WithoutGil unlocked;
             self.take_back();
           })
      .def("__repr__", [](const Step& self) {
        return concat("Step(", counted(self.num_tokens(), "token"), " of ",
                      counted(std::ssize(self.tables()), "table"), ")");
      });
}

}  // namespace quire::python
