#include <string_view>

#include "bindings.h"
#include "fast_function.h"
#include "gil.h"
#include "operator_call.h"
#include "quire/cpu/recurrent/recurrent_launch.h"
#include "recurrent_docs.h"

namespace quire::python {
namespace {

namespace py = pybind11;

py::object py_causal_conv1d(py::handle x, py::handle weight, py::handle state, py::handle bias,
                            py::handle cu_seqlens, py::handle activation, py::handle state_indices,
                            py::handle out, py::handle num_threads) {
  constexpr const char* function = "causal_conv1d";
  const FloatArray x_array = to_float_array({function, "x"}, x);
  const FloatArray weight_array = to_float_array({function, "weight"}, weight);
  const FloatArray state_array = to_float_array({function, "state"}, state);
  const auto bias_array = to_optional_floats({function, "bias"}, bias);
  const auto lengths = to_optional_indices({function, "cu_seqlens"}, cu_seqlens);
  const auto indices = to_optional_indices({function, "state_indices"}, state_indices);
  CausalConv1dArgs args;
  args.x = x_array.view;
  args.weight = weight_array.view;
  args.state = state_array.view;
  args.bias = view_of(bias_array);
  args.cu_seqlens = view_of(lengths);
  args.state_indices = view_of(indices);
  args.silu = !activation.is_none();
  if (args.silu) {
    const Argument of_activation{function, "activation"};
    const std::string_view name = to_text(of_activation, activation);
    if (name != "silu") {
      raise<ValueError>(of_activation.place(), "got \"", name, "\", expected \"silu\" or None");
    }
  }
  OutArray y({function, "out"}, out, x, args.x);
  args.out = y.view();
  const Execution how = to_execution(function, num_threads);
  {
    const WithoutGil unlocked;
    causal_conv1d(args, how, function);
  }
  return y.take();
}

py::object py_gated_delta_rule(py::handle q, py::handle k, py::handle v, py::handle g,
                               py::handle beta, py::handle state, py::handle cu_seqlens,
                               py::handle scale, py::handle state_indices, py::handle out,
                               py::handle num_threads) {
  constexpr const char* function = "gated_delta_rule";
  const FloatArray q_array = to_float_array({function, "q"}, q);
  const FloatArray k_array = to_float_array({function, "k"}, k);
  const FloatArray v_array = to_float_array({function, "v"}, v);
  const FloatArray g_array = to_float_array({function, "g"}, g);
  const FloatArray beta_array = to_float_array({function, "beta"}, beta);
  const FloatArray state_array = to_float_array({function, "state"}, state);
  const auto lengths = to_optional_indices({function, "cu_seqlens"}, cu_seqlens);
  const auto indices = to_optional_indices({function, "state_indices"}, state_indices);
  GatedDeltaRuleArgs args;
  args.q = q_array.view;
  args.k = k_array.view;
  args.v = v_array.view;
  args.g = g_array.view;
  args.beta = beta_array.view;
  args.state = state_array.view;
  args.cu_seqlens = view_of(lengths);
  args.state_indices = view_of(indices);
  args.scale = to_optional_double({function, "scale"}, scale);
  ArrayView like = args.v;
  like.dtype = args.q.dtype;
  OutArray y({function, "out"}, out, q, like);
  args.out = y.view();
  const Execution how = to_execution(function, num_threads);
  {
    const WithoutGil unlocked;
    gated_delta_rule(args, how, function);
  }
  return y.take();
}

}  // namespace

void bind_recurrent(py::module_& m) {
  FastFunction<&py_causal_conv1d>::define(
      m, "causal_conv1d", docs::kCausalConv1d, py::arg("x"), py::arg("weight"), py::kw_only(),
      py::arg("state"), py::arg("bias") = py::none(), py::arg("cu_seqlens") = py::none(),
      py::arg("activation") = "silu", py::arg("state_indices") = py::none(),
      py::arg("out") = py::none(), py::arg("num_threads") = py::none());
  FastFunction<&py_gated_delta_rule>::define(
      m, "gated_delta_rule", docs::kGatedDeltaRule, py::arg("q"), py::arg("k"), py::arg("v"),
      py::arg("g"), py::arg("beta"), py::kw_only(), py::arg("state"),
      py::arg("cu_seqlens") = py::none(), py::arg("scale") = py::none(),
      py::arg("state_indices") = py::none(), py::arg("out") = py::none(),
      py::arg("num_threads") = py::none());
}

}  // namespace quire::python
