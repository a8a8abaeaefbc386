#include <algorithm>

#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "docstrings.h"
#include "gil.h"
#include "numpy_view.h"
#include "offload_docs.h"
#include "open_docs.h"
#include "quire/base/check.h"
#include "quire/kv/pool/block_pool.h"
#include "quire/paged/make_pool.h"

namespace quire::python {
namespace {

namespace py = pybind11;

// str, bytes or os.PathLike, as the bytes that the system knows it by; None: empty.
std::string path_of(Argument argument, py::handle path) {
  if (path.is_none()) return {};
  PyObject* bytes = nullptr;
  if (!PyUnicode_FSConverter(path.ptr(), &bytes)) {
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
      PyErr_Clear();
      raise<TypeError>(argument.place(), "got ", type_name(path), ", expected a path or None");
    }
    if (!PyErr_ExceptionMatches(PyExc_ValueError)) throw py::error_already_set();
    PyErr_Clear();
    raise<ValueError>(argument.place(), "got a text that cannot be a path, expected one that can");
  }
  const std::string text = py::reinterpret_steal<py::bytes>(bytes);
  if (text.empty()) raise<ValueError>(argument.place(), "got \"\", expected a path or None");
  return text;
}

std::shared_ptr<BlockPool> new_pool(py::handle num_blocks, py::handle block_size,
                                    py::handle num_kv_heads, py::handle head_dim,
                                    py::handle v_head_dim, py::handle num_layers, py::handle dtype,
                                    py::handle backing_file, py::handle resident_bytes,
                                    py::handle open_blocks, py::handle shared) {
  constexpr const char* function = "BlockPool";
  KvGeometry geometry;
  geometry.num_blocks = to_int({function, "num_blocks"}, num_blocks);
  geometry.block_size = to_int({function, "block_size"}, block_size);
  geometry.num_kv_heads = to_int({function, "num_kv_heads"}, num_kv_heads);
  geometry.head_dim = to_int({function, "head_dim"}, head_dim);
  geometry.v_head_dim =
      to_optional_int({function, "v_head_dim"}, v_head_dim).value_or(geometry.head_dim);
  geometry.num_layers = to_int({function, "num_layers"}, num_layers);
  geometry.dtype = to_dtype({function, "dtype"}, dtype);
  geometry.open_blocks = to_optional_int({function, "open_blocks"}, open_blocks);
  geometry.shared = to_bool({function, "shared"}, shared);
  BackingFile file;
  file.path = path_of({function, "backing_file"}, backing_file);
  file.resident_bytes = to_optional_int({function, "resident_bytes"}, resident_bytes);
  const Execution how = default_execution();  // under the GIL: reads the environment
  const WithoutGil unlocked;                  // a disk may take its time
  return make_pool(geometry, file, how);
}

py::object allocate(BlockPool& pool, py::handle n) {
  const std::int64_t count = to_int({"BlockPool.allocate", "n"}, n);
  std::vector<std::int32_t> ids;
  {
    const WithoutGil unlocked;
    ids = pool.allocate(count);
  }
  std::int32_t* data = nullptr;
  const py::object array = new_index_array({static_cast<std::int64_t>(ids.size())}, &data);
  std::copy(ids.begin(), ids.end(), data);
  return array;
}

// An array of ids, or a single one.
IndexArray ids_of(Argument argument, py::handle ids) {
  const bool single = PyLong_Check(ids.ptr()) && !PyBool_Check(ids.ptr());
  IndexArray array;
  if (single) {
    std::int64_t* data = nullptr;
    array.owner = new_index_array({1}, &data);
    *data = to_int(argument, ids);
    array.view = contiguous_index_view(data, {1});
  } else {
    array = to_index_array(argument, ids);
  }
  if (array.view.ndim == 0) {  // a NumPy integer
    array.view.ndim = 1;
    array.view.shape[0] = 1;
  }
  if (array.view.ndim != 1) {
    raise<ValueError>(argument.place(), "got shape ", shape_text(array.view),
                      ", expected one axis");
  }
  return array;
}

void retain(BlockPool& pool, py::handle ids) {
  const IndexArray array = ids_of({"BlockPool.retain", "ids"}, ids);
  const WithoutGil unlocked;
  pool.retain(array.view);
}

void release(BlockPool& pool, py::handle ids) {
  const IndexArray array = ids_of({"BlockPool.release", "ids"}, ids);
  const WithoutGil unlocked;
  pool.release(array.view);
}

py::object ref_counts(const BlockPool& pool) {
  const std::vector<std::int32_t> counts = pool.ref_counts();
  std::int32_t* data = nullptr;
  const py::object array = new_index_array({static_cast<std::int64_t>(counts.size())}, &data);
  std::copy(counts.begin(), counts.end(), data);
  return array;
}

py::object flags(const std::vector<bool>& values) {
  bool* data = nullptr;
  const py::object array = new_index_array({static_cast<std::int64_t>(values.size())}, &data);
  std::copy(values.begin(), values.end(), data);
  return array;
}

py::object resident_blocks(const BlockPool& pool) { return flags(pool.resident_blocks()); }

py::object cached_blocks(const BlockPool& pool) { return flags(pool.cached_blocks()); }

// Defines a method that gives a view of one layer of `owner_of(pool)`. The view's base is
// the pool's own Python object, which so stays alive. A child of fork() gets no view of its
// parent's pool; those that it has go on showing their memory.
template <class Class, class Owner>
void define_view(Class& cls, const char* full_name, const Owner& (*owner_of)(const BlockPool&),
                 ArrayView (Owner::*view)(std::int64_t) const, const char* doc) {
  const auto method = [=](py::object self, py::handle layer) {
    const auto pool = object_of<BlockPool>({full_name, "self"}, self);
    pool->home().require();
    const Owner& owner = owner_of(*pool);
    return array_over((owner.*view)(to_int({full_name, "layer"}, layer)), self);
  };
  def_method(cls, full_name, method, doc, py::arg("layer") = 0);
}

const KvStorage& storage_of(const BlockPool& pool) { return pool.storage(); }

const OpenBlocks& open_blocks_of(const BlockPool& pool) { return pool.open_blocks(); }

py::object dtype_of(const BlockPool& pool) {
  const DType dtype = pool.geometry().dtype;
  if (dtype != DType::int4) return numpy_dtype(dtype);
  const py::object int4 = py::module_::import("ml_dtypes").attr("int4");
  return py::module_::import("numpy").attr("dtype")(int4);
}

std::string pool_repr(const BlockPool& pool) {
  const KvGeometry& g = pool.geometry();
  return concat("BlockPool(", g.num_blocks, ", block_size=", g.block_size,
                ", num_kv_heads=", g.num_kv_heads, ", head_dim=", g.head_dim,
                g.v_head_dim == g.head_dim ? "" : concat(", v_head_dim=", g.v_head_dim),
                ", num_layers=", g.num_layers, ", dtype='", name_of(g.dtype), "'",
                g.open_blocks ? concat(", open_blocks=", *g.open_blocks) : "",
                g.shared ? ", shared=True" : "", ")  # ", pool.num_free(), " free, ",
                pool.num_used(), " used");
}

std::string stats_repr(const PoolStats& s) {
  return concat("PoolStats(num_blocks=", s.num_blocks, ", free=", s.free, ", used=", s.used,
                ", shared=", s.shared, ", cached=", s.cached, ", pinned=", s.pinned,
                ", reserved_tokens=", s.reserved_tokens, ", filled_tokens=", s.filled_tokens,
                ", wasted_tokens=", s.wasted_tokens, ", peak_used=", s.peak_used,
                ", copies_on_write=", s.copies_on_write, ", resident_bytes=", s.resident_bytes,
                ", offloaded=", s.offloaded, ", open_blocks=", s.open_blocks,
                ", kept_open=", s.kept_open, ", bytes_per_token=", s.bytes_per_token, ")");
}

void bind_stats(py::module_& m) {
  bind_class<PoolStats>(m, "PoolStats", docs::kPoolStats)
      .def_readonly("num_blocks", &PoolStats::num_blocks, "Blocks of a layer: free + used.")
      .def_readonly("free", &PoolStats::free, "Blocks that nobody holds.")
      .def_readonly("used", &PoolStats::used, "Blocks that somebody holds.")
      .def_readonly("shared", &PoolStats::shared, "Blocks with more than one reference.")
      .def_readonly("cached", &PoolStats::cached,
                    "Blocks that only prefix caches hold, and may give up.")
      .def_readonly("pinned", &PoolStats::pinned, "Blocks that prefix caches have pinned.")
      .def_readonly("reserved_tokens", &PoolStats::reserved_tokens,
                    "Room of the blocks that tables hold, in tokens.")
      .def_readonly("filled_tokens", &PoolStats::filled_tokens,
                    "Tokens that stand in blocks of tables, a shared block counted once.")
      .def_readonly("wasted_tokens", &PoolStats::wasted_tokens,
                    "Room of tables without a token: reserved_tokens - filled_tokens.")
      .def_readonly("peak_used", &PoolStats::peak_used,
                    "The most blocks that were ever used at once.")
      .def_readonly("copies_on_write", &PoolStats::copies_on_write,
                    "Shared blocks copied for a table that wrote, since the pool was made.")
      .def_readonly("resident_bytes", &PoolStats::resident_bytes,
                    "Bytes of blocks that are kept in memory, with resident_bytes those of open "
                    "ones too; nbytes where all are.")
      .def_readonly("offloaded", &PoolStats::offloaded,
                    "Blocks in use that are not kept in memory, or not in all layers.")
      .def_readonly("open_blocks", &PoolStats::open_blocks,
                    "Blocks that are read in full precision.")
      .def_readonly(
          "kept_open", &PoolStats::kept_open,
          "Other blocks whose rows are kept in full precision beside the sealed ones, for "
          "BlockTable.truncate.")
      .def_readonly("bytes_per_token", &PoolStats::bytes_per_token,
                    "Bytes of a token in all layers, padding included, in blocks that are not "
                    "open: nbytes / (num_blocks * block_size), a float.")
      .def("__repr__", &stats_repr);
}

}  // namespace

void bind_block_pool(py::module_& m) {
  bind_stats(m);
  const auto size = [](std::int64_t KvGeometry::* member) {
    return [member](const BlockPool& pool) { return pool.geometry().*member; };
  };
  auto pool = bind_class<BlockPool, std::shared_ptr<BlockPool>>(m, "BlockPool", docs::kBlockPool);
  def_init(pool, "BlockPool", &new_pool, docs::kBlockPool, py::arg("num_blocks"), py::kw_only(),
           py::arg("block_size") = 16, py::arg("num_kv_heads"), py::arg("head_dim"),
           py::arg("v_head_dim") = py::none(), py::arg("num_layers") = 1,
           py::arg("dtype") = "bfloat16", py::arg("backing_file") = py::none(),
           py::arg("resident_bytes") = py::none(), py::arg("open_blocks") = py::none(),
           py::arg("shared") = false);
  define_view(pool, "BlockPool.k_cache", &storage_of, &KvStorage::k_cache, docs::kKCache);
  define_view(pool, "BlockPool.v_cache", &storage_of, &KvStorage::v_cache, docs::kVCache);
  define_view(pool, "BlockPool.k_scale", &storage_of, &KvStorage::k_scale, docs::kKScale);
  define_view(pool, "BlockPool.v_scale", &storage_of, &KvStorage::v_scale, docs::kVScale);
  define_view(pool, "BlockPool.k_open", &open_blocks_of, &OpenBlocks::k_open, docs::kKOpen);
  define_view(pool, "BlockPool.v_open", &open_blocks_of, &OpenBlocks::v_open, docs::kVOpen);
  def_method(pool, "BlockPool.allocate", &allocate, docs::kAllocate, py::arg("n") = 1);
  def_method(pool, "BlockPool.retain", &retain, docs::kRetain, py::arg("ids"));
  def_method(pool, "BlockPool.release", &release, docs::kRelease, py::arg("ids"));
  def_method(pool, "BlockPool.stats", &BlockPool::stats, docs::kStats);
  def_method(pool, "BlockPool.check", &BlockPool::check, docs::kCheck,
             py::call_guard<WithoutGil>());
  pool.def_property_readonly("num_blocks", size(&KvGeometry::num_blocks),
                             "Blocks of each layer; an id is one in every layer.")
      .def_property_readonly("block_size", size(&KvGeometry::block_size), "Tokens of a block.")
      .def_property_readonly("num_kv_heads", size(&KvGeometry::num_kv_heads),
                             "Heads of keys and values in a layer.")
      .def_property_readonly("head_dim", size(&KvGeometry::head_dim), "Elements of a key.")
      .def_property_readonly("v_head_dim", size(&KvGeometry::v_head_dim), "Elements of a value.")
      .def_property_readonly("num_layers", size(&KvGeometry::num_layers),
                             "Layers, each with num_blocks blocks of its own.")
      .def_property_readonly("dtype", &dtype_of,
                             "NumPy's dtype of keys and values; int4 is that of ml_dtypes.")
      .def_property_readonly(
          "nbytes", [](const BlockPool& self) { return self.storage().nbytes(); },
          "Bytes of all layers, but for open blocks.")
      .def_property_readonly(
          "open_blocks", [](const BlockPool& self) { return self.geometry().num_open(); },
          "Last blocks of a table that are in full precision.")
      .def_property_readonly(
          "shared", [](const BlockPool& self) { return self.geometry().shared; },
          "Whether a value is the first v_head_dim numbers of its key.")
      .def_property_readonly("num_free", &BlockPool::num_free, "Blocks that nobody holds.")
      .def_property_readonly("num_used", &BlockPool::num_used, "Blocks that somebody holds.")
      .def_property_readonly("ref_counts", &ref_counts, docs::kRefCounts)
      .def_property_readonly("resident_blocks", &resident_blocks, docs::kResidentBlocks)
      .def_property_readonly("cached_blocks", &cached_blocks,
                             "Whether prefix caches hold the block and nobody else, [num_blocks].")
      .def("__repr__", &pool_repr)
      .def("_repr_html_", [](py::object self) {
        return py::module_::import("quire.display").attr("pool_html")(self);
      });
}

}  // namespace quire::python
