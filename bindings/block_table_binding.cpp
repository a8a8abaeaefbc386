#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "bindings.h"
#include "block_table_docs.h"
#include "bound_class.h"
#include "define.h"
#include "fast_function.h"
#include "gil.h"
#include "numpy_view.h"
#include "offload_docs.h"
#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"
#include "quire/kv/table/held_tables.h"
#include "quire/paged/append.h"
#include "table_list.h"

namespace quire::python {
namespace {

namespace py = pybind11;

template <class T>
py::object array_of(const std::vector<T>& values) {
  T* data = nullptr;
  py::object array = new_index_array({static_cast<std::int64_t>(values.size())}, &data);
  std::copy(values.begin(), values.end(), data);
  return array;
}

std::shared_ptr<BlockTable> new_table(py::handle pool) {
  return std::make_shared<BlockTable>(object_of<BlockPool>({"BlockTable", "pool"}, pool));
}

// A table's lock may be waited for, and whoever has it may wait for the GIL: so every function here
// lets go of the GIL first.
std::int64_t num_tokens(const BlockTable& table) {
  const WithoutGil unlocked;
  return table.num_tokens();
}

py::object extend(BlockTable& table, py::handle n) {
  const std::int64_t count = to_int({"BlockTable.extend", "n"}, n);
  std::vector<std::int64_t> slots;
  {
    const WithoutGil unlocked;
    slots = table.extend(count);
  }
  return array_of(slots);
}

void py_append(BlockTable& table, py::handle k, py::handle v) {
  constexpr const char* function = "BlockTable.append";
  const FloatArray keys = to_float_array({function, "k"}, k);
  const std::optional<FloatArray> values = to_optional_floats({function, "v"}, v);
  const Execution how = default_execution();  // under the GIL, as it reads the environment
  const WithoutGil unlocked;
  append(table, keys.view, view_of(values), how);
}

std::shared_ptr<BlockTable> fork(const BlockTable& table) {
  const WithoutGil unlocked;
  return table.fork();
}

void truncate(BlockTable& table, py::handle num_tokens) {
  const std::int64_t count = to_int({"BlockTable.truncate", "num_tokens"}, num_tokens);
  const WithoutGil unlocked;
  table.truncate(count);
}

void drop_before(BlockTable& table, py::handle position, py::handle num_sink_tokens) {
  constexpr const char* function = "BlockTable.drop_before";
  const std::int64_t first = to_int({function, "position"}, position);
  const std::int64_t sink_tokens = to_int({function, "num_sink_tokens"}, num_sink_tokens);
  const WithoutGil unlocked;
  table.drop_before(first, sink_tokens);
}

void keep(BlockTable& table, py::handle positions) {
  const IndexArray array = to_index_array({"BlockTable.keep", "positions"}, positions);
  if (array.view.ndim != 1) {
    raise<ValueError>("BlockTable.keep: positions", "got shape ", shape_text(array.view),
                      ", expected [n]");
  }
  std::vector<std::int64_t> kept(static_cast<std::size_t>(array.view.shape[0]));
  for (std::size_t i = 0; i < kept.size(); ++i) {
    kept[i] = array.view.at(static_cast<std::int64_t>(i));
  }
  const WithoutGil unlocked;
  table.keep(kept);
}

py::object positions(const BlockTable& table) {
  std::vector<std::int64_t> found;
  {
    const WithoutGil unlocked;
    found = table.positions();
  }
  return array_of(found);
}

py::object gather(const BlockTable& table, py::handle layer) {
  const std::int64_t index = to_int({"BlockTable.gather", "layer"}, layer);
  const KvGeometry& geometry = table.pool()->geometry();
  {
    const WithoutGil unlocked;
    table.gather(index, 0, nullptr, nullptr);  // refuses a layer, or a freed table
  }
  const std::int64_t room = num_tokens(table);
  const DType dtype = is_quantised(geometry.dtype) ? DType::float32 : geometry.dtype;
  ArrayView k_view, v_view;
  const py::object k =
      new_float_array(dtype, {room, geometry.num_kv_heads, geometry.head_dim}, &k_view);
  const py::object v =
      new_float_array(dtype, {room, geometry.num_kv_heads, geometry.v_head_dim}, &v_view);
  std::int64_t count = 0;
  {
    const WithoutGil unlocked;
    count = table.gather(index, room, k_view.data, v_view.data);
  }
  if (count == room) return py::make_tuple(k, v);
  // another thread shortened the table in between
  const py::slice kept(0, count, 1);
  return py::make_tuple(k[kept], v[kept]);
}

py::object blocks(const BlockTable& table) {
  std::vector<std::int32_t> ids;
  {
    const WithoutGil unlocked;
    ids = table.blocks();
  }
  return array_of(ids);
}

// NumPy's protocol: np.asarray(table).
py::object as_array(const BlockTable& table, py::object dtype, py::object copy) {
  if (copy.ptr() == Py_False) {
    raise<ValueError>("BlockTable.__array__: copy",
                      "got False, expected None or True: ", "the block ids are always copied");
  }
  py::object array = blocks(table);
  return dtype.is_none() ? array : array.attr("astype")(dtype, py::arg("copy") = false);
}

std::string table_repr(const BlockTable& table) {
  const WithoutGil unlocked;
  std::vector<std::int32_t> ids;
  std::int64_t tokens = 0;
  try {
    ids = table.blocks();
    tokens = table.num_tokens();
  } catch (const ValueError&) {
    return "BlockTable(freed)";
  }
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(ids.size(), 8); ++i) {
    text += concat(i == 0 ? "" : ", ", ids[i]);
  }
  return concat("BlockTable(", counted(tokens, "token"), " in ", counted(ids.size(), "block"), " [",
                text, ids.size() > 8 ? ", ..." : "", "])");
}

py::object py_pack_tables(py::handle tables, py::handle pad) {
  constexpr const char* function = "pack_tables";
  const TableList list(function, tables);
  const std::int64_t padding = to_int({function, "pad"}, pad);
  if (padding < std::numeric_limits<std::int32_t>::min() ||
      padding > std::numeric_limits<std::int32_t>::max()) {
    raise<ValueError>(place(function, "pad"), "got ", padding, ", expected an int32");
  }
  std::vector<std::int32_t> packed, lengths;
  std::int64_t max_blocks = 0;
  {
    const WithoutGil unlocked;
    const HeldTables held(function, list.tables());
    max_blocks = held.max_blocks();
    packed.resize(static_cast<std::size_t>(held.size() * max_blocks));
    lengths.resize(static_cast<std::size_t>(held.size()));
    held.pack(static_cast<std::int32_t>(padding), packed.data(), lengths.data());
  }
  std::int32_t* data = nullptr;
  py::object block_tables =
      new_index_array({static_cast<std::int64_t>(lengths.size()), max_blocks}, &data);
  std::copy(packed.begin(), packed.end(), data);
  return py::make_tuple(block_tables, array_of(lengths));
}

}  // namespace

void bind_block_table(py::module_& m) {
  auto table =
      bind_class<BlockTable, std::shared_ptr<BlockTable>>(m, "BlockTable", docs::kBlockTable);
  def_init(table, "BlockTable", &new_table, docs::kBlockTable, py::arg("pool"));
  def_method(table, "BlockTable.extend", &extend, docs::kExtend, py::arg("n"));
  def_method(table, "BlockTable.append", &py_append, docs::kAppend, py::arg("k"),
             py::arg("v") = py::none());
  def_method(table, "BlockTable.fork", &fork, docs::kFork);
  def_method(table, "BlockTable.truncate", &truncate, docs::kTruncate, py::arg("num_tokens"));
  def_method(table, "BlockTable.drop_before", &drop_before, docs::kDropBefore, py::arg("position"),
             py::kw_only(), py::arg("num_sink_tokens") = 0);
  def_method(table, "BlockTable.keep", &keep, docs::kKeep, py::arg("positions"));
  def_method(table, "BlockTable.gather", &gather, docs::kGather, py::arg("layer") = 0);
  def_method(table, "BlockTable.offload", &BlockTable::offload, docs::kOffload,
             py::call_guard<WithoutGil>());
  def_method(table, "BlockTable.restore", &BlockTable::restore, docs::kRestore,
             py::call_guard<WithoutGil>());
  def_method(table, "BlockTable.free", &BlockTable::free, docs::kFree,
             py::call_guard<WithoutGil>());
  table.def_property_readonly("pool", &BlockTable::pool, "The pool that its blocks are of.")
      .def_property_readonly("num_tokens", &num_tokens, "Tokens of the sequence.")
      .def_property_readonly("blocks", &blocks, docs::kBlocks)
      .def_property_readonly("positions", &positions, docs::kPositions)
      .def_property_readonly(
          "next_position",
          [](const BlockTable& self) {
            const WithoutGil unlocked;
            return self.next_position();
          },
          docs::kNextPosition)
      .def("__len__", &num_tokens)
      .def("__bool__", [](const BlockTable&) { return true; })
      .def("__array__", &as_array, py::arg("dtype") = py::none(), py::arg("copy") = py::none())
      .def("__enter__",
           [](py::object self) {
             object_of<BlockTable>({"BlockTable.__enter__", "self"}, self);
             return self;
           })
      .def("__exit__",
           [](py::object self, const py::args&) {
             // not by reference, which raises in a child of fork(): there the block just ends
             const auto table = object_of<BlockTable>({"BlockTable.__exit__", "self"}, self);
             const WithoutGil unlocked;
             table->close();
           })
      .def("__repr__", &table_repr)
      .def("_repr_html_", [](py::object self) {
        return py::module_::import("quire.display").attr("table_html")(self);
      });
  FastFunction<&py_pack_tables>::define(m, "pack_tables", docs::kPackTables, py::arg("tables"),
                                        py::kw_only(), py::arg("pad") = -1);
}

}  // namespace quire::python
