#include <array>
#include <vector>

#include "bindings.h"
#include "fast_function.h"
#include "gil.h"
#include "operator_call.h"
#include "quire/cpu/sampling/sample_launch.h"
#include "quire/ops/sampling/route.h"
#include "sampling_docs.h"

namespace quire::python {
namespace {

namespace py = pybind11;

// An option of each row: one number for all of them, or as many as there are rows. convert(object)
// makes an entry, set(row, entry) takes it.
template <class Convert, class Set>
void for_each_row(Argument argument, py::handle object, std::int64_t num_rows,
                  const Convert& convert, const Set& set) {
  const Py_ssize_t length = py::isinstance<py::str>(object) ? -1 : PyObject_Size(object.ptr());
  if (length < 0) {  // a number, or whatever convert() refuses
    if (PyErr_Occurred() != nullptr && PyErr_ExceptionMatches(PyExc_TypeError) == 0) {
      throw py::error_already_set();
    }
    PyErr_Clear();
    const auto entry = convert(object);
    for (std::int64_t row = 0; row < num_rows; ++row) set(row, entry);
    return;
  }
  if (length != num_rows) {
    raise<ValueError>(argument.place(), "got ", length, " values, expected one, or ", num_rows,
                      ", B of logits");
  }
  const py::list entries(py::reinterpret_borrow<py::object>(object));
  if (static_cast<std::int64_t>(entries.size()) != num_rows) {
    raise<ValueError>(argument.place(), "got ", entries.size(), " values from ", length,
                      ", expected as many as it says");
  }
  for (std::int64_t row = 0; row < num_rows; ++row) set(row, convert(entries[row]));
}

class RowOptions {
 public:
  RowOptions(const char* function, std::int64_t num_rows)
      : function_(function), options_(static_cast<std::size_t>(num_rows)) {}

  void take(const char* name, py::handle object, std::int64_t SampleOptions::* member) {
    take(name, object, member,
         [](Argument argument, py::handle entry) { return to_int(argument, entry); });
  }
  void take(const char* name, py::handle object, double SampleOptions::* member) {
    take(name, object, member,
         [](Argument argument, py::handle entry) { return to_double(argument, entry); });
  }
  const std::vector<SampleOptions>& get() const { return options_; }

 private:
  template <class Member, class Convert>
  void take(const char* name, py::handle object, Member member, const Convert& convert) {
    const Argument argument{function_, name};
    for_each_row(
        argument, object, static_cast<std::int64_t>(options_.size()),
        [&](py::handle entry) { return convert(argument, entry); },
        [&](std::int64_t row, auto value) {
          options_[static_cast<std::size_t>(row)].*member = value;
        });
  }

  const char* function_;
  std::vector<SampleOptions> options_;
};

py::object py_sample(py::handle logits, py::handle seed, py::handle position,
                     py::handle temperature, py::handle top_k, py::handle top_p, py::handle min_p,
                     py::handle repetition_penalty, py::handle presence_penalty,
                     py::handle frequency_penalty, py::handle prompt_ids, py::handle output_ids,
                     py::handle bias, py::handle mask, py::handle out, py::handle num_threads) {
  constexpr const char* function = "sample";
  const FloatArray logit_array = to_float_array({function, "logits"}, logits);
  SampleArgs args;
  args.logits = logit_array.view;
  if (args.logits.ndim != 2) check_sample(args, function);  // there are no rows to have options
  const std::int64_t num_rows = args.logits.shape[0];
  RowOptions options(function, num_rows);
  options.take("seed", seed, &SampleOptions::seed);
  options.take("position", position, &SampleOptions::position);
  options.take("temperature", temperature, &SampleOptions::temperature);
  options.take("top_k", top_k, &SampleOptions::top_k);
  options.take("top_p", top_p, &SampleOptions::top_p);
  options.take("min_p", min_p, &SampleOptions::min_p);
  options.take("repetition_penalty", repetition_penalty, &SampleOptions::repetition_penalty);
  options.take("presence_penalty", presence_penalty, &SampleOptions::presence_penalty);
  options.take("frequency_penalty", frequency_penalty, &SampleOptions::frequency_penalty);
  args.options = options.get();
  const auto prompts = to_optional_indices({function, "prompt_ids"}, prompt_ids);
  const auto outputs = to_optional_indices({function, "output_ids"}, output_ids);
  const auto bias_array = to_optional_floats({function, "bias"}, bias);
  const auto mask_array = to_optional_indices({function, "mask"}, mask);
  args.prompt_ids = view_of(prompts);
  args.output_ids = view_of(outputs);
  args.bias = view_of(bias_array);
  args.mask = view_of(mask_array);
  const std::int64_t shape[] = {num_rows};
  OutNumbers<std::int64_t> tokens({function, "out"}, out, logits, shape);
  args.out = tokens.values();
  const Execution how = to_execution(function, num_threads);
  {
    const WithoutGil unlocked;
    sample(args, how, function);
  }
  return tokens.take();
}

// The two arrays of `out`, which are None where it is.
std::array<py::object, 2> pair_of(Argument argument, py::handle out) {
  if (out.is_none()) return {py::none(), py::none()};
  if (!PyTuple_Check(out.ptr()) || PyTuple_GET_SIZE(out.ptr()) != 2) {
    raise<TypeError>(argument.place(), "got ", type_name(out),
                     ", expected a tuple (weights, experts), or None");
  }
  const auto pair = py::reinterpret_borrow<py::tuple>(out);
  return {pair[0], pair[1]};
}

py::object py_route(py::handle logits, py::handle top_k, py::handle scoring, py::handle renormalise,
                    py::handle bias, py::handle out, py::handle num_threads) {
  constexpr const char* function = "route";
  const FloatArray logit_array = to_float_array({function, "logits"}, logits);
  const auto bias_array = to_optional_floats({function, "bias"}, bias);
  const Argument of_scoring{function, "scoring"};
  RouteArgs args;
  args.logits = logit_array.view;
  args.top_k = to_int({function, "top_k"}, top_k);
  args.scoring = route_scoring_from_name(to_text(of_scoring, scoring), of_scoring.place());
  args.renormalise = to_bool({function, "renormalise"}, renormalise);
  args.bias = view_of(bias_array);
  const int threads = to_execution(function, num_threads).num_threads;
  // of shapes that route refuses there is nothing to make
  const bool fits = args.logits.ndim == 2 && args.top_k >= 1 && args.top_k <= args.logits.shape[1];
  const std::int64_t shape[] = {fits ? args.logits.shape[0] : 0, fits ? args.top_k : 0};
  const auto [weights_out, experts_out] = pair_of({function, "out"}, fits ? out : py::none());
  OutNumbers<float> weights({function, "out[0]"}, weights_out, logits, shape);
  OutNumbers<std::int32_t> experts({function, "out[1]"}, experts_out, logits, shape);
  args.weights = weights.values();
  args.experts = experts.values();
  {
    const WithoutGil unlocked;
    route(args, threads, function);
  }
  return py::make_tuple(weights.take(), experts.take());
}

}  // namespace

void bind_sampling(py::module_& m) {
  FastFunction<&py_sample>::define(
      m, "sample", docs::kSample, py::arg("logits"), py::kw_only(), py::arg("seed"),
      py::arg("position"), py::arg("temperature") = 1.0, py::arg("top_k") = 0,
      py::arg("top_p") = 1.0, py::arg("min_p") = 0.0, py::arg("repetition_penalty") = 1.0,
      py::arg("presence_penalty") = 0.0, py::arg("frequency_penalty") = 0.0,
      py::arg("prompt_ids") = py::none(), py::arg("output_ids") = py::none(),
      py::arg("bias") = py::none(), py::arg("mask") = py::none(), py::arg("out") = py::none(),
      py::arg("num_threads") = py::none());
  FastFunction<&py_route>::define(m, "route", docs::kRoute, py::arg("logits"), py::arg("top_k"),
                                  py::kw_only(), py::arg("scoring") = "softmax",
                                  py::arg("renormalise") = true, py::arg("bias") = py::none(),
                                  py::arg("out") = py::none(), py::arg("num_threads") = py::none());
}

}  // namespace quire::python
