// The keyword options that paged_attention and attend share.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>

#include "fast_function.h"
#include "numpy_view.h"
#include "quire/attention/paged_attention.h"
#include "quire/cpu/operations.h"

namespace quire::python {

// As given, in the order of the signature.
struct AttentionOptions {
  pybind11::handle cu_seqlens_q, key_positions, causal, scale, sliding_window, num_sink_tokens,
      softcap, alibi_slopes, sinks, k_scale, v_scale, layout, out, return_lse, return_block_mass,
      implementation, num_threads;
};

// One call. The constructor checks the types of q and of the options, but of scales, which depend
// on the caches; tables are the caller's to fill in. Shapes and values are checked by
// quire::validate.
class AttentionCall {
 public:
  AttentionCall(const char* function, pybind11::handle q, const AttentionOptions& options);

  PagedAttentionArgs& args() { return args_; }
  // The caches, and the scales that were given for them.
  void take_caches(const ArrayView& k_cache, const ArrayView& v_cache);
  Implementation implementation() const { return implementation_; }

  // Makes the outputs that were not given, once the caches are known.
  void make_outputs();

  // Needs no GIL. Block tables are there by now.
  void compute();

  // out, the new or the given one; with what else was wanted, (out, lse, mass of blocks). Once.
  pybind11::object result();

 private:
  const char* const function_;
  PagedAttentionArgs args_;
  FloatArray q_, given_out_, slopes_, sinks_;
  const pybind11::handle k_scale_option_, v_scale_option_;
  std::optional<ScaleArray> k_scale_, v_scale_;
  IndexArray cu_seqlens_q_, key_positions_;
  bool return_lse_ = false, return_block_mass_ = false;
  pybind11::object out_, lse_;
  std::unique_ptr<float[]> block_mass_;  // Python's in the end
  Implementation implementation_ = Implementation::fused;
  int num_threads_ = 1;
  const Kernels* kernels_ = nullptr;
};

// Defines a function of `arguments` of its own and the options, in this order.
template <auto Function, class... Arguments>
void def_with_options(pybind11::module_& m, const char* name, const char* doc,
                      const Arguments&... arguments) {
  namespace py = pybind11;
  FastFunction<Function>::define(
      m, name, doc, arguments..., py::arg("cu_seqlens_q") = py::none(),
      py::arg("key_positions") = py::none(), py::arg("causal") = true,
      py::arg("scale") = py::none(), py::arg("sliding_window") = py::none(),
      py::arg("num_sink_tokens") = 0, py::arg("softcap") = py::none(),
      py::arg("alibi_slopes") = py::none(), py::arg("sinks") = py::none(),
      py::arg("k_scale") = py::none(), py::arg("v_scale") = py::none(), py::arg("layout") = "NHD",
      py::arg("out") = py::none(), py::arg("return_lse") = false,
      py::arg("return_block_mass") = false, py::arg("implementation") = "auto",
      py::arg("num_threads") = py::none());
}

}  // namespace quire::python
