#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "fast_function.h"
#include "gil.h"
#include "model_docs.h"
#include "numpy_view.h"
#include "operator_call.h"
#include "quire/model/load_model.h"
#include "quire/model/prompt_logits.h"
#include "token_ids.h"

namespace quire::python {
namespace {

namespace py = pybind11;

py::object object_of_json(const JsonValue& value) {
  if (value.is_null()) return py::none();
  if (const bool* const truth = value.boolean()) return py::bool_(*truth);
  if (const std::int64_t* const whole = value.whole()) return py::int_(*whole);
  if (value.is_number()) return py::float_(value.real());
  if (const std::string* const text = value.string()) return py::str(*text);
  if (const JsonValue::Array* const array = value.array()) {
    py::list list;
    for (const JsonValue& item : *array) list.append(object_of_json(item));
    return list;
  }
  py::dict dict;
  for (const auto& [key, item] : *value.object()) dict[py::str(key)] = object_of_json(item);
  return dict;
}

py::object py_load_model(py::handle path, py::handle weights, py::handle num_threads) {
  constexpr const char* function = "load_model";
  const std::string folder = to_path({function, "path"}, path);
  LoadOptions options;
  if (!weights.is_none()) options.weights = to_weight_format({function, "weights"}, weights);
  options.num_threads = to_execution(function, num_threads).num_threads;
  std::shared_ptr<const LoadedModel> model;
  {
    const WithoutGil unlocked;
    model = load_model(folder, options, function);
  }
  return py::cast(std::const_pointer_cast<LoadedModel>(model));  // Python's face changes nothing
}

py::object logits(const LoadedModel& model, py::handle token_ids, py::handle max_batch_tokens,
                  py::handle num_threads) {
  constexpr const char* function = "Model.logits";
  const std::vector<std::int64_t> ids = to_token_ids({function, "token_ids"}, token_ids);
  const std::int64_t at_once = to_int({function, "max_batch_tokens"}, max_batch_tokens);
  const Execution how = to_execution(function, num_threads);
  ArrayView view;
  py::object array = new_float_array(DType::float32, {std::ssize(ids), model.vocab_size()}, &view);
  const WithoutGil unlocked;
  prompt_logits(model, ids, at_once, view, how, function);
  return array;
}

py::object memory_report(const LoadedModel& model) {
  py::list list;
  for (const auto& [formats, line] : model.memory_report().lines) {
    py::dict entry;
    entry["stored"] = formats.first;
    entry["packed"] = formats.second;
    entry["tensors"] = line.tensors;
    entry["numbers"] = line.numbers;
    entry["bytes"] = line.bytes;
    list.append(entry);
  }
  return py::module_::import("quire.memory_report").attr("MemoryReport")(list);
}

}  // namespace

void bind_model(py::module_& m) {
  auto model = bind_class<LoadedModel, std::shared_ptr<LoadedModel>>(m, "Model", docs::kModel);
  def_method(model, "Model.logits", &logits, docs::kModelLogits, py::arg("token_ids"),
             py::kw_only(), py::arg("max_batch_tokens") = 512, py::arg("num_threads") = py::none());
  def_method(model, "Model.memory_report", &memory_report, docs::kModelMemoryReport);
  model
      .def_property_readonly(
          "config", [](const LoadedModel& self) { return object_of_json(self.config().root()); },
          "What config.json says, as a dict; of a GGUF file what its metadata says, in the same "
          "words.")
      .def_property_readonly(
          "path", [](const LoadedModel& self) { return self.path(); },
          "Of the file or folder that it was loaded from.")
      .def_property_readonly(
          "tokenizer",
          [](py::handle self) {
            return py::module_::import("quire.text.model_tokenizer").attr("model_tokenizer")(self);
          },
          "The Tokenizer in its files, made when it is first asked for; None where there is none.")
      .def_property_readonly("vocab_size", &LoadedModel::vocab_size,
                             "Tokens that there are: logits of each position.")
      .def_property_readonly("num_layers", &LoadedModel::num_layers,
                             "Layers, those without attention included.")
      .def_property_readonly("max_positions", &LoadedModel::max_positions,
                             "Tokens that a sequence can have.")
      .def_property_readonly(
          "stop_token_ids",
          [](const LoadedModel& self) {
            py::list ids;
            for (const std::int64_t id : self.stop_token_ids()) ids.append(id);
            return ids;
          },
          "Tokens that end an answer, as a list.")
      .def("__repr__", [](const LoadedModel& self) {
        return concat("Model(", self.config().architecture(), ", ",
                      counted(self.num_layers(), "layer"), ", ", self.memory_report().bytes(),
                      " bytes)");
      });
  FastFunction<&py_load_model>::define(m, "load_model", docs::kLoadModel, py::arg("path"),
                                       py::kw_only(), py::arg("weights") = py::none(),
                                       py::arg("num_threads") = py::none());
}

}  // namespace quire::python
