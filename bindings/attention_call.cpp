#include "attention_call.h"

#include <array>
#include <span>
#include <string_view>
#include <utility>

#include "quire/base/check.h"
#include "quire/format/cache_format.h"

namespace quire::python {

namespace py = pybind11;

namespace {

thread_local std::string_view last;

}  // namespace

std::string_view last_implementation() { return last; }

AttentionCall::AttentionCall(const char* function, py::handle q, const AttentionOptions& options)
    : function_(function),
      q_object_(q),
      k_scale_option_(options.k_scale),
      v_scale_option_(options.v_scale) {
  q_ = to_query_array({function, "q"}, q);
  query_.q = q_.view;
  if (!options.cu_seqlens_q.is_none()) {
    cu_seqlens_q_ = to_index_array({function, "cu_seqlens_q"}, options.cu_seqlens_q);
    query_.cu_seqlens_q = cu_seqlens_q_.view;
  }
  if (!options.key_positions.is_none()) {
    key_positions_ = to_index_array({function, "key_positions"}, options.key_positions);
    positions_ = key_positions_.view;
  }
  take_causal(options.causal);
  if (!options.tree_mask.is_none()) {
    tree_ = to_bool_array({function, "tree_mask"}, options.tree_mask);
    query_.tree_mask = tree_.view();
  }
  query_.scale = to_optional_double({function, "scale"}, options.scale);
  take_window(options.sliding_window);
  query_.num_sink_tokens = to_int({function, "num_sink_tokens"}, options.num_sink_tokens);
  query_.softcap = to_optional_double({function, "softcap"}, options.softcap);
  if (!options.alibi_slopes.is_none()) {
    slopes_ = to_float_array({function, "alibi_slopes"}, options.alibi_slopes);
    query_.alibi_slopes = slopes_.view;
  }
  if (!options.sinks.is_none()) {
    sinks_ = to_float_array({function, "sinks"}, options.sinks);
    query_.sinks = sinks_.view;
  }
  cache_dtype_ = to_optional_dtype({function, "cache_dtype"}, options.cache_dtype);
  layout_ = to_layout({function, "layout"}, options.layout);
  how_ = to_execution(function, options.num_threads);
  implementation_ = implementation_from_name(
      to_text({function, "implementation"}, options.implementation), function);
  return_lse_ = to_bool({function, "return_lse"}, options.return_lse);
  return_block_mass_ = to_bool({function, "return_block_mass"}, options.return_block_mass);
  if (options.out.is_none()) return;
  given_out_ = to_float_array({function, "out"}, options.out);
  query_.out = given_out_.view;
  given_out_object_ = py::reinterpret_borrow<py::object>(options.out);
}

void AttentionCall::take_causal(py::handle causal) {
  const Argument argument{function_, "causal"};
  if (!shows_array(causal)) {
    query_.causal = to_bool(argument, causal);
    return;
  }
  causal_ = to_bool_array(argument, causal);
  query_.causal_of_each = causal_.view();
}

void AttentionCall::take_window(py::handle window) {
  const Argument argument{function_, "sliding_window"};
  if (!PyTuple_Check(window.ptr())) {
    query_.sliding_window = to_optional_int(argument, window);
    return;
  }
  const auto sides = py::reinterpret_borrow<py::tuple>(window);
  if (sides.size() != 2) {
    raise<ValueError>(argument.place(), "got a tuple of ", sides.size(),
                      ", expected (left, right), an int or None");
  }
  query_.window_sides = WindowSides{to_int(argument, sides[0]), to_int(argument, sides[1])};
}

void AttentionCall::require_options_of_tables() const {
  if (layout_ != Layout::NHD) {
    raise<ValueError>(place(function_, "layout"),
                      "got \"HND\", expected NHD, the layout of a pool");
  }
  if (positions_) {
    raise<ValueError>(place(function_, "key_positions"),
                      "got some, expected None: tables have their own");
  }
}

FloatArray AttentionCall::cache(const char* name, py::handle object) const {
  return to_cache_array({function_, name}, object, cache_dtype_);
}

void AttentionCall::take_pool(DType dtype) {
  if (cache_dtype_) require_cache_dtype({function_, "pool"}, dtype, *cache_dtype_);
  take_scales(dtype, dtype);
}

void AttentionCall::take_scales(DType k_cache, DType v_cache) {
  k_scale_.emplace(Argument{function_, "k_scale"}, k_scale_option_, k_cache);
  v_scale_.emplace(Argument{function_, "v_scale"}, v_scale_option_, v_cache);
  query_.k_scale = k_scale_->view();
  query_.v_scale = v_scale_->view();
}

// Where q has another number of axes there is nothing to make, and validate says so.
void AttentionCall::make_outputs(std::int64_t v_head_dim) {
  if (query_.q.ndim != 3) return;
  const std::array shape = {query_.q.shape[0], query_.q.shape[1], v_head_dim};
  if (!given_out_object_) {
    const DType dtype = is_float8(query_.q.dtype) ? DType::bfloat16 : query_.q.dtype;
    out_ = ResultArray(q_object_, dtype, shape);
    query_.out = out_.view();
  }
  if (return_lse_) {
    lse_ = ResultArray(q_object_, DType::float32, std::span(shape).first(2));
    query_.lse = reinterpret_cast<float*>(lse_.view().data);
  }
}

py::object AttentionCall::result() {
  last = name_of(implementation_);
  const py::object out = given_out_object_ ? given_out_object_ : out_.take();
  if (!return_block_mass_) {
    if (!return_lse_) return out;
    return py::make_tuple(out, lse_.take());
  }
  const ArrayView view =
      contiguous_view(block_mass_.values.get(), DType::float32,
                      {query_.q.shape[0], query_.q.shape[1], block_mass_.max_blocks});
  const py::object mass = ResultArray(q_object_, view, std::move(block_mass_.values)).take();
  if (!return_lse_) return py::make_tuple(out, mass);
  return py::make_tuple(out, lse_.take(), mass);
}

}  // namespace quire::python
