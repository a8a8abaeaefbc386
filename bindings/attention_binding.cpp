#include <limits>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include "attention_options.h"
#include "bindings.h"
#include "docstrings.h"
#include "gil.h"
#include "quire/base/check.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/select_kernels.h"
#include "quire/kv/block_table.h"
#include "streamed_keys.h"
#include "table_list.h"

namespace quire::python {

namespace py = pybind11;

namespace {

thread_local std::string_view last_implementation;  // empty: none yet

}  // namespace

AttentionCall::AttentionCall(const char* function, py::handle q, const AttentionOptions& options)
    : function_(function), k_scale_option_(options.k_scale), v_scale_option_(options.v_scale) {
  q_ = to_float_array({function, "q"}, q);
  args_.q = q_.view;
  if (!options.cu_seqlens_q.is_none()) {
    cu_seqlens_q_ = to_index_array({function, "cu_seqlens_q"}, options.cu_seqlens_q);
    args_.cu_seqlens_q = cu_seqlens_q_.view;
  }
  if (!options.key_positions.is_none()) {
    key_positions_ = to_index_array({function, "key_positions"}, options.key_positions);
    args_.key_positions = key_positions_.view;
  }
  args_.causal = to_bool({function, "causal"}, options.causal);
  args_.scale = to_optional_double({function, "scale"}, options.scale);
  args_.sliding_window = to_optional_int({function, "sliding_window"}, options.sliding_window);
  args_.num_sink_tokens = to_int({function, "num_sink_tokens"}, options.num_sink_tokens);
  args_.softcap = to_optional_double({function, "softcap"}, options.softcap);
  if (!options.alibi_slopes.is_none()) {
    slopes_ = to_float_array({function, "alibi_slopes"}, options.alibi_slopes);
    args_.alibi_slopes = slopes_.view;
  }
  if (!options.sinks.is_none()) {
    sinks_ = to_float_array({function, "sinks"}, options.sinks);
    args_.sinks = sinks_.view;
  }
  args_.layout = to_layout({function, "layout"}, options.layout);
  const auto num_threads = to_optional_int({function, "num_threads"}, options.num_threads);
  if (num_threads && (*num_threads < 1 || *num_threads > 1024)) {
    raise<ValueError>(place(function, "num_threads"), "got ", *num_threads,
                      ", expected 1 to 1024, or None");
  }
  // the environment is Python's to change, so it is read under the GIL, here and in take_caches
  num_threads_ = num_threads ? static_cast<int>(*num_threads) : default_num_threads();
  implementation_ = implementation_from_name(
      to_text({function, "implementation"}, options.implementation), function);
  return_lse_ = to_bool({function, "return_lse"}, options.return_lse);
  return_block_mass_ = to_bool({function, "return_block_mass"}, options.return_block_mass);
  if (options.out.is_none()) return;
  given_out_ = to_float_array({function, "out"}, options.out);
  args_.out = given_out_.view;
  out_ = py::reinterpret_borrow<py::object>(options.out);
}

void AttentionCall::take_caches(const ArrayView& k_cache, const ArrayView& v_cache) {
  args_.k_cache = k_cache;
  args_.v_cache = v_cache;
  kernels_ = &selected_kernels(k_cache.dtype);
  k_scale_.emplace(Argument{function_, "k_scale"}, k_scale_option_, k_cache.dtype);
  v_scale_.emplace(Argument{function_, "v_scale"}, v_scale_option_, v_cache.dtype);
  args_.k_scale = k_scale_->view();
  args_.v_scale = v_scale_->view();
}

// Where q or v_cache has another number of axes there is nothing to make, and validate says so.
void AttentionCall::make_outputs() {
  if (args_.q.ndim != 3 || args_.v_cache.ndim != 4) return;
  const std::int64_t tokens = args_.q.shape[0], heads = args_.q.shape[1];
  if (!out_) {
    const std::int64_t v_head_dim = args_.v_cache.shape[3] * numbers_of(args_.v_cache.dtype);
    out_ = new_float_array(args_.q.dtype, {tokens, heads, v_head_dim}, &args_.out);
  }
  if (return_lse_) {
    ArrayView lse;
    lse_ = new_float_array(DType::float32, {tokens, heads}, &lse);
    args_.lse = reinterpret_cast<float*>(lse.data);
  }
}

void AttentionCall::compute() {
  // of other shapes there is no mass, and validate says so
  if (return_block_mass_ && args_.q.ndim == 3 && args_.block_tables.ndim == 2) {
    std::int64_t count = args_.q.shape[0];
    if (__builtin_mul_overflow(count, args_.q.shape[1], &count) ||
        __builtin_mul_overflow(count, args_.block_tables.shape[1], &count) ||
        count > std::numeric_limits<std::int64_t>::max() / 8) {
      throw std::bad_alloc();
    }
    block_mass_.reset(new (std::nothrow) float[static_cast<std::size_t>(count)]);
    if (block_mass_ == nullptr) throw std::bad_alloc();
    args_.block_mass = block_mass_.get();
  }
  paged_attention(args_, implementation_, num_threads_, *kernels_, function_);
  last_implementation = name_of(implementation_);
}

py::object AttentionCall::result() {
  if (!return_block_mass_) {
    if (!return_lse_) return out_;
    return py::make_tuple(out_, lse_);
  }
  const py::capsule owner(block_mass_.get(),
                          [](void* floats) { delete[] static_cast<float*>(floats); });
  const ArrayView view =
      contiguous_view(block_mass_.release(), DType::float32,
                      {args_.q.shape[0], args_.q.shape[1], args_.block_tables.shape[1]});
  const py::object mass = array_over(view, owner);
  if (!return_lse_) return py::make_tuple(out_, mass);
  return py::make_tuple(out_, lse_, mass);
}

namespace {

py::object py_paged_attention(py::handle q, py::handle k_cache, py::handle v_cache,
                              py::handle block_tables, py::handle seq_lens, py::handle k_open,
                              py::handle v_open, py::handle cu_seqlens_q, py::handle key_positions,
                              py::handle causal, py::handle scale, py::handle sliding_window,
                              py::handle num_sink_tokens, py::handle softcap,
                              py::handle alibi_slopes, py::handle sinks, py::handle k_scale,
                              py::handle v_scale, py::handle layout, py::handle out,
                              py::handle return_lse, py::handle return_block_mass,
                              py::handle implementation, py::handle num_threads) {
  constexpr const char* function = "paged_attention";
  AttentionCall call(function, q,
                     {cu_seqlens_q, key_positions, causal, scale, sliding_window, num_sink_tokens,
                      softcap, alibi_slopes, sinks, k_scale, v_scale, layout, out, return_lse,
                      return_block_mass, implementation, num_threads});
  const FloatArray k = to_cache_array({function, "k_cache"}, k_cache);
  const FloatArray v = to_cache_array({function, "v_cache"}, v_cache);
  const IndexArray tables = to_index_array({function, "block_tables"}, block_tables);
  const IndexArray lengths = to_index_array({function, "seq_lens"}, seq_lens);
  call.take_caches(k.view, v.view);
  call.args().block_tables = tables.view;
  call.args().seq_lens = lengths.view;
  const std::optional<FloatArray> k_blocks = to_optional_floats({function, "k_open"}, k_open);
  const std::optional<FloatArray> v_blocks = to_optional_floats({function, "v_open"}, v_open);
  if (k_blocks) call.args().k_open = k_blocks->view;
  if (v_blocks) call.args().v_open = v_blocks->view;
  call.make_outputs();
  {
    const WithoutGil unlocked;
    call.compute();
  }
  return call.result();
}

// The fused kernels, and block mass after them, take keys as a stream brings them. For the others
// the system reads what they touch, and it is given back when they are done or have refused.
void compute(AttentionCall& call, const BlockPool& pool, std::int64_t layer,
             std::span<const std::int32_t> blocks) {
  Residency* const residency = pool.residency();
  if (residency == nullptr) return call.compute();
  pool.storage().memory().require_written("attend");
  std::optional<StreamedKeys> keys;
  if (call.implementation() == Implementation::fused) {
    call.args().pager = &keys.emplace(*residency, layer);
  }
  const std::vector<std::int64_t> slabs = residency->slabs(layer, blocks);
  try {
    call.compute();
  } catch (...) {
    residency->settle(slabs);
    throw;
  }
  if (!keys) residency->settle(slabs);
}

py::object py_attend(py::handle q, py::handle tables, py::handle layer, py::handle cu_seqlens_q,
                     py::handle key_positions, py::handle causal, py::handle scale,
                     py::handle sliding_window, py::handle num_sink_tokens, py::handle softcap,
                     py::handle alibi_slopes, py::handle sinks, py::handle k_scale,
                     py::handle v_scale, py::handle layout, py::handle out, py::handle return_lse,
                     py::handle return_block_mass, py::handle implementation,
                     py::handle num_threads) {
  constexpr const char* function = "attend";
  AttentionCall call(function, q,
                     {cu_seqlens_q, key_positions, causal, scale, sliding_window, num_sink_tokens,
                      softcap, alibi_slopes, sinks, k_scale, v_scale, layout, out, return_lse,
                      return_block_mass, implementation, num_threads});
  if (call.args().layout != Layout::NHD) {
    raise<ValueError>("attend: layout", "got \"HND\", expected NHD, the layout of a pool");
  }
  if (call.args().key_positions) {
    raise<ValueError>("attend: key_positions", "got some, expected None: tables have their own");
  }
  const std::int64_t index = to_int({function, "layer"}, layer);
  const TableList list(function, tables);
  if (list.tables().empty()) raise<ValueError>("attend: tables", "got none, expected at least one");
  const KvStorage& storage = list.tables()[0]->pool()->storage();
  const std::int64_t num_layers = storage.geometry().num_layers;
  if (index < 0 || index >= num_layers) {
    raise<IndexError>("attend: layer", "got ", index, ", expected 0 to ", num_layers - 1);
  }
  call.take_caches(storage.k_cache(index), storage.v_cache(index));
  ArgumentNames& names = call.args().names = kNamesOfPool;
  if (call.args().k_scale) names.k_scale = "k_scale";
  if (call.args().v_scale) names.v_scale = "v_scale";
  if (is_quantised(storage.geometry().dtype)) {
    if (!call.args().k_scale) call.args().k_scale = storage.k_scale(index);
    if (!call.args().v_scale) call.args().v_scale = storage.v_scale(index);
  }
  if (const OpenBlocks* const open = list.tables()[0]->pool()->open_blocks()) {
    call.args().k_open = open->k_open(index);
    call.args().v_open = open->v_open(index);
  }
  call.make_outputs();
  {
    // Nothing of Python runs while the tables are held: it could wait for one of them.
    const WithoutGil unlocked;
    const BlockPool::Delivery delivery(*list.tables()[0]->pool());
    const HeldTables held(function, list.tables());
    std::vector<std::int32_t> block_tables(
        static_cast<std::size_t>(held.size() * held.max_blocks()));
    std::vector<std::int32_t> seq_lens(static_cast<std::size_t>(held.size()));
    held.pack(-1, block_tables.data(), seq_lens.data());
    call.args().block_tables =
        contiguous_index_view(block_tables.data(), {held.size(), held.max_blocks()});
    call.args().seq_lens = contiguous_index_view(seq_lens.data(), {held.size()});
    std::vector<std::int64_t> positions;
    if (held.has_positions()) {
      positions.resize(static_cast<std::size_t>(held.size() * held.max_tokens()));
      held.pack_positions(positions.data());
      call.args().key_positions =
          contiguous_index_view(positions.data(), {held.size(), held.max_tokens()});
    }
    compute(call, *held.pool(), index, block_tables);
  }
  return call.result();
}

py::object py_last_implementation() {
  if (last_implementation.empty()) return py::none();
  return py::str(last_implementation.data(), last_implementation.size());
}

py::object py_merge_states(py::handle outs, py::handle lses) {
  constexpr const char* function = "merge_states";
  const FloatArray outs_array = to_float_array({function, "outs"}, outs);
  const FloatArray lses_array = to_float_array({function, "lses"}, lses);
  MergeStatesArgs args{};
  args.outs = outs_array.view;
  args.lses = lses_array.view;
  py::object out, lse;
  if (args.outs.ndim == 4) {
    const auto& shape = args.outs.shape;
    ArrayView lse_view;
    out = new_float_array(args.outs.dtype, {shape[1], shape[2], shape[3]}, &args.out);
    lse = new_float_array(DType::float32, {shape[1], shape[2]}, &lse_view);
    args.lse = reinterpret_cast<float*>(lse_view.data);
  }
  {
    const WithoutGil unlocked;
    merge_states(args);
  }
  return py::make_tuple(out, lse);
}

}  // namespace

void bind_attention(py::module_& m) {
  def_with_options<&py_paged_attention>(
      m, "paged_attention", docs::kPagedAttention, py::arg("q"), py::arg("k_cache"),
      py::arg("v_cache"), py::arg("block_tables"), py::arg("seq_lens"), py::kw_only(),
      py::arg("k_open") = py::none(), py::arg("v_open") = py::none());
  def_with_options<&py_attend>(m, "attend", docs::kAttend, py::arg("q"), py::arg("tables"),
                               py::kw_only(), py::arg("layer") = 0);
  FastFunction<&py_last_implementation>::define(m, "last_implementation",
                                                docs::kLastImplementation);
  FastFunction<&py_merge_states>::define(m, "merge_states", docs::kMergeStates, py::arg("outs"),
                                         py::arg("lses"));
}

}  // namespace quire::python
