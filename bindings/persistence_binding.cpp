#include <cstdint>
#include <memory>
#include <string>

#include "arguments.h"
#include "bindings.h"
#include "define.h"
#include "gil.h"
#include "persistence_docs.h"
#include "quire/base/check.h"
#include "quire/io/cache_file.h"
#include "quire/io/table_file.h"

namespace quire::python {
namespace {

namespace py = pybind11;

void py_save_table(const BlockTable& table, py::handle path) {
  const std::string name = to_path({"BlockTable.save", "path"}, path);
  const WithoutGil unlocked;
  save_table(table, name);
}

std::shared_ptr<BlockTable> py_load_table(py::handle pool, py::handle path) {
  if (!py::isinstance<BlockPool>(pool)) {
    raise<TypeError>("load_table: pool", "got ", type_name(pool), ", expected a BlockPool");
  }
  const auto shared = pool.cast<std::shared_ptr<BlockPool>>();
  const std::string name = to_path({"load_table", "path"}, path);
  const WithoutGil unlocked;
  return load_table(shared, name);
}

void py_save_cache(const PrefixCache& cache, py::handle dir) {
  const std::string name = to_path({"PrefixCache.save", "dir"}, dir);
  const WithoutGil unlocked;
  save_cache(cache, name);
}

std::int64_t py_load_cache(PrefixCache& cache, py::handle dir) {
  const std::string name = to_path({"PrefixCache.load", "dir"}, dir);
  const WithoutGil unlocked;
  return load_cache(cache, name);
}

// The Python class of a C++ one that another file has bound.
template <class Class>
Class bound(const py::module_& m, const char* name) {
  return py::reinterpret_borrow<Class>(m.attr(name));
}

}  // namespace

void bind_persistence(py::module_& m) {
  auto table = bound<py::class_<BlockTable, std::shared_ptr<BlockTable>>>(m, "BlockTable");
  def_method(table, "BlockTable.save", &py_save_table, docs::kSaveTable, py::arg("path"));
  def_function(m, "load_table", &py_load_table, docs::kLoadTable, py::arg("pool"), py::arg("path"));
  auto cache = bound<py::class_<PrefixCache, std::shared_ptr<PrefixCache>>>(m, "PrefixCache");
  def_method(cache, "PrefixCache.save", &py_save_cache, docs::kSaveCache, py::arg("dir"));
  def_method(cache, "PrefixCache.load", &py_load_cache, docs::kLoadCache, py::arg("dir"));
}

}  // namespace quire::python
