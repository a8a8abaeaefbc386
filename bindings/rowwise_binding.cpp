#include <algorithm>
#include <string_view>

#include "bindings.h"
#include "fast_function.h"
#include "gil.h"
#include "operator_call.h"
#include "quire/cpu/rowwise/rowwise_launch.h"
#include "quire/ops/rotary/rope_frequencies.h"
#include "rowwise_docs.h"

namespace quire::python {
namespace {

namespace py = pybind11;

py::object py_rms_norm(py::handle x, py::handle weight, py::handle eps, py::handle residual,
                       py::handle weight_offset, py::handle gate, py::handle out,
                       py::handle residual_out, py::handle num_threads) {
  constexpr const char* function = "rms_norm";
  const FloatArray x_array = to_float_array({function, "x"}, x);
  const FloatArray weight_array = to_float_array({function, "weight"}, weight);
  const auto residual_array = to_optional_floats({function, "residual"}, residual);
  const auto gate_array = to_optional_floats({function, "gate"}, gate);
  RmsNormArgs args;
  args.x = x_array.view;
  args.weight = weight_array.view;
  args.eps = to_double({function, "eps"}, eps);
  args.weight_offset = to_double({function, "weight_offset"}, weight_offset);
  args.residual = view_of(residual_array);
  args.gate = view_of(gate_array);
  OutArray y({function, "out"}, out, x, args.x);
  args.out = y.view();
  std::optional<OutArray> sums;
  if (residual_array || !residual_out.is_none()) {
    sums.emplace(Argument{function, "residual_out"}, residual_out, x, args.x);
    args.residual_out = sums->view();
  }
  const Execution how = to_execution(function, num_threads);
  {
    const WithoutGil unlocked;
    rms_norm(args, how, function);
  }
  return sums ? py::make_tuple(y.take(), sums->take()) : y.take();
}

py::object py_swiglu(py::handle gate, py::handle up, py::handle activation, py::handle out,
                     py::handle num_threads) {
  constexpr const char* function = "swiglu";
  const FloatArray gate_array = to_float_array({function, "gate"}, gate);
  const FloatArray up_array = to_float_array({function, "up"}, up);
  const Argument of_activation{function, "activation"};
  SwigluArgs args;
  args.gate = gate_array.view;
  args.up = up_array.view;
  args.activation = activation_from_name(to_text(of_activation, activation), of_activation.place());
  OutArray y({function, "out"}, out, gate, args.gate);
  args.out = y.view();
  const Execution how = to_execution(function, num_threads);
  {
    const WithoutGil unlocked;
    swiglu(args, how, function);
  }
  return y.take();
}

py::object py_rope(py::handle x, py::handle positions, py::handle theta, py::handle rotary_dim,
                   py::handle interleaved, py::handle inv_freq, py::handle attention_factor,
                   py::handle out, py::handle num_threads) {
  constexpr const char* function = "rope";
  const FloatArray x_array = to_float_array({function, "x"}, x);
  const IndexArray position_array = to_index_array({function, "positions"}, positions);
  const auto inv_freq_array = to_optional_floats({function, "inv_freq"}, inv_freq);
  RopeArgs args;
  args.x = x_array.view;
  args.positions = position_array.view;
  args.theta = to_double({function, "theta"}, theta);
  args.rotary_dim = to_optional_int({function, "rotary_dim"}, rotary_dim);
  args.interleaved = to_bool({function, "interleaved"}, interleaved);
  args.inv_freq = view_of(inv_freq_array);
  args.attention_factor = to_double({function, "attention_factor"}, attention_factor);
  OutArray y({function, "out"}, out, x, args.x);
  args.out = y.view();
  const Execution how = to_execution(function, num_threads);
  {
    const WithoutGil unlocked;
    rope(args, how, function);
  }
  return y.take();
}

py::object py_rope_frequencies(py::handle rotary_dim, py::handle rope_theta, py::handle rope_type,
                               py::handle factor, py::handle original_max_position_embeddings,
                               py::handle seq_len, py::handle low_freq_factor,
                               py::handle high_freq_factor, py::handle beta_fast,
                               py::handle beta_slow, py::handle truncate, py::handle mscale,
                               py::handle mscale_all_dim, py::handle attention_factor) {
  const auto at = [](const char* name) { return Argument{"rope_frequencies", name}; };
  RopeFrequencyOptions options;
  options.rotary_dim = to_int(at("rotary_dim"), rotary_dim);
  options.theta = to_double(at("rope_theta"), rope_theta);
  options.scaling =
      rope_scaling_from_name(to_text(at("rope_type"), rope_type), at("rope_type").place());
  options.factor = to_double(at("factor"), factor);
  options.original_max_positions =
      to_optional_int(at("original_max_position_embeddings"), original_max_position_embeddings);
  options.seq_len = to_optional_int(at("seq_len"), seq_len).value_or(0);
  options.low_freq_factor = to_double(at("low_freq_factor"), low_freq_factor);
  options.high_freq_factor = to_double(at("high_freq_factor"), high_freq_factor);
  options.beta_fast = to_double(at("beta_fast"), beta_fast);
  options.beta_slow = to_double(at("beta_slow"), beta_slow);
  options.truncate = to_bool(at("truncate"), truncate);
  options.mscale = to_optional_double(at("mscale"), mscale);
  options.mscale_all_dim = to_optional_double(at("mscale_all_dim"), mscale_all_dim);
  options.attention_factor = to_optional_double(at("attention_factor"), attention_factor);
  const RopeFrequencies found = rope_frequencies(options);
  ArrayView view;
  py::object array =
      new_float_array(DType::float32, {static_cast<std::int64_t>(found.inv_freq.size())}, &view);
  std::copy(found.inv_freq.begin(), found.inv_freq.end(), reinterpret_cast<float*>(view.data));
  return py::make_tuple(array, found.attention_factor);
}

}  // namespace

void bind_rowwise(py::module_& m) {
  FastFunction<&py_rms_norm>::define(
      m, "rms_norm", docs::kRmsNorm, py::arg("x"), py::arg("weight"), py::kw_only(),
      py::arg("eps") = 1e-6, py::arg("residual") = py::none(), py::arg("weight_offset") = 0.0,
      py::arg("gate") = py::none(), py::arg("out") = py::none(),
      py::arg("residual_out") = py::none(), py::arg("num_threads") = py::none());
  FastFunction<&py_swiglu>::define(m, "swiglu", docs::kSwiglu, py::arg("gate"), py::arg("up"),
                                   py::kw_only(), py::arg("activation") = "silu",
                                   py::arg("out") = py::none(),
                                   py::arg("num_threads") = py::none());
  FastFunction<&py_rope>::define(m, "rope", docs::kRope, py::arg("x"), py::arg("positions"),
                                 py::kw_only(), py::arg("theta") = 10000.0,
                                 py::arg("rotary_dim") = py::none(), py::arg("interleaved") = false,
                                 py::arg("inv_freq") = py::none(),
                                 py::arg("attention_factor") = 1.0, py::arg("out") = py::none(),
                                 py::arg("num_threads") = py::none());
  FastFunction<&py_rope_frequencies>::define(
      m, "rope_frequencies", docs::kRopeFrequencies, py::arg("rotary_dim"), py::kw_only(),
      py::arg("rope_theta") = 10000.0, py::arg("rope_type") = "default", py::arg("factor") = 1.0,
      py::arg("original_max_position_embeddings") = py::none(), py::arg("seq_len") = py::none(),
      py::arg("low_freq_factor") = 1.0, py::arg("high_freq_factor") = 4.0,
      py::arg("beta_fast") = 32.0, py::arg("beta_slow") = 1.0, py::arg("truncate") = true,
      py::arg("mscale") = py::none(), py::arg("mscale_all_dim") = py::none(),
      py::arg("attention_factor") = py::none());
}

}  // namespace quire::python
