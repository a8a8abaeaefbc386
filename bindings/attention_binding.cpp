#include <optional>
#include <span>
#include <string_view>

#include "attention_call.h"
#include "bindings.h"
#include "docstrings.h"
#include "gil.h"
#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"
#include "quire/paged/attend.h"
#include "result_array.h"
#include "table_list.h"

namespace quire::python {

namespace py = pybind11;

namespace {

py::object py_paged_attention(py::handle q, py::handle k_cache, py::handle v_cache,
                              py::handle block_tables, py::handle seq_lens, py::handle k_open,
                              py::handle v_open, py::handle k_tail,
                              const AttentionOptions& options) {
  constexpr const char* function = "paged_attention";
  AttentionCall call(function, q, options);
  const FloatArray k = call.cache("k_cache", k_cache);
  const FloatArray v = call.cache("v_cache", v_cache);
  std::optional<FloatArray> tail;
  if (!k_tail.is_none()) tail = call.cache("k_tail", k_tail);
  const IndexArray tables = to_index_array({function, "block_tables"}, block_tables);
  const IndexArray lengths = to_index_array({function, "seq_lens"}, seq_lens);
  const std::optional<FloatArray> k_blocks = to_optional_floats({function, "k_open"}, k_open);
  const std::optional<FloatArray> v_blocks = to_optional_floats({function, "v_open"}, v_open);
  call.take_scales(k.view.dtype, v.view.dtype);
  if (v.view.ndim == 4) call.make_outputs(v.view.shape[3] * numbers_of(v.view.dtype));
  PagedAttentionArgs args;
  static_cast<AttentionQuery&>(args) = call.query();
  args.k_cache = k.view;
  args.v_cache = v.view;
  args.block_tables = tables.view;
  args.seq_lens = lengths.view;
  args.key_positions = call.key_positions();
  args.layout = call.layout();
  if (k_blocks) args.k_open = k_blocks->view;
  if (v_blocks) args.v_open = v_blocks->view;
  if (tail) args.k_tail = tail->view;
  {
    const WithoutGil unlocked;
    // of other shapes there is no mass, and validate says so
    if (call.block_mass() != nullptr && args.q.ndim == 3 && args.block_tables.ndim == 2) {
      make_block_mass(args, *call.block_mass());
    }
    paged_attention(args, call.implementation(), call.how(), function);
  }
  return call.result();
}

py::object py_attend(py::handle q, py::handle tables, py::handle layer,
                     const AttentionOptions& options) {
  constexpr const char* function = "attend";
  AttentionCall call(function, q, options);
  call.require_options_of_tables();
  const std::int64_t index = to_int({function, "layer"}, layer);
  const TableList list(function, tables);
  if (list.tables().empty()) raise<ValueError>("attend: tables", "got none, expected at least one");
  const KvGeometry& geometry = list.tables()[0]->pool()->geometry();
  call.take_pool(geometry.dtype);
  call.make_outputs(geometry.v_head_dim);
  {
    // Nothing of Python runs while the tables are held: it could wait for one of them.
    const WithoutGil unlocked;
    attend(call.query(), list.tables(), index, call.implementation(), call.how(), call.block_mass(),
           function);
  }
  return call.result();
}

py::object py_last_implementation() {
  const std::string_view last = last_implementation();
  if (last.empty()) return py::none();
  return py::str(last.data(), last.size());
}

py::object py_merge_states(py::handle outs, py::handle lses, py::handle out, py::handle lse) {
  constexpr const char* function = "merge_states";
  const FloatArray outs_array = to_float_array({function, "outs"}, outs);
  const FloatArray lses_array = to_float_array({function, "lses"}, lses);
  const std::optional<FloatArray> given_out = to_optional_floats({function, "out"}, out);
  const std::optional<FloatArray> given_lse = to_optional_floats({function, "lse"}, lse);
  MergeStatesArgs args{outs_array.view, lses_array.view, {}, {}};
  ResultArray new_out, new_lse;
  if (args.outs.ndim >= 2) {  // of fewer axes there is nothing to make, and validate says so
    const auto shape = std::span(args.outs.shape).first(static_cast<std::size_t>(args.outs.ndim));
    if (!given_out) new_out = ResultArray(outs, args.outs.dtype, shape.subspan(1));
    if (!given_lse) {
      new_lse = ResultArray(outs, DType::float32, shape.subspan(1, shape.size() - 2));
    }
  }
  args.out = given_out ? given_out->view : new_out.view();
  args.lse = given_lse ? given_lse->view : new_lse.view();
  {
    const WithoutGil unlocked;
    merge_states(args);
  }
  const auto result = [](py::handle given, ResultArray& made) {
    return given.is_none() ? made.take() : py::reinterpret_borrow<py::object>(given);
  };
  return py::make_tuple(result(out, new_out), result(lse, new_lse));
}

}  // namespace

void bind_attention(py::module_& m) {
  FastFunction<&py_paged_attention>::define(
      m, "paged_attention", paged_attention_doc(), py::arg("q"), py::arg("k_cache"),
      py::arg("v_cache"), py::arg("block_tables"), py::arg("seq_lens"), py::kw_only(),
      py::arg("k_open") = py::none(), py::arg("v_open") = py::none(),
      py::arg("k_tail") = py::none(), attention_options());
  FastFunction<&py_attend>::define(m, "attend", attend_doc(), py::arg("q"), py::arg("tables"),
                                   py::kw_only(), py::arg("layer") = 0, attention_options());
  FastFunction<&py_last_implementation>::define(m, "last_implementation",
                                                docs::kLastImplementation);
  FastFunction<&py_merge_states>::define(m, "merge_states", docs::kMergeStates, py::arg("outs"),
                                         py::arg("lses"), py::kw_only(),
                                         py::arg("out") = py::none(), py::arg("lse") = py::none());
}

}  // namespace quire::python
