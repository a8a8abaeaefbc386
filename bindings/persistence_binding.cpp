#include <cstdint>
#include <memory>
#include <string>

#include "arguments.h"
#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "fast_function.h"
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

py::object py_load_table(py::handle pool, py::handle path) {
  const auto shared = object_of<BlockPool>({"load_table", "pool"}, pool);
  const std::string name = to_path({"load_table", "path"}, path);
  std::shared_ptr<BlockTable> table;
  {
    const WithoutGil unlocked;
    table = load_table(shared, name);
  }
  return py::cast(table);
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

}  // namespace

void bind_persistence(py::module_& m) {
  auto table = bound_class<BlockTable>();
  def_method(table, "BlockTable.save", &py_save_table, docs::kSaveTable, py::arg("path"));
  FastFunction<&py_load_table>::define(m, "load_table", docs::kLoadTable, py::arg("pool"),
                                       py::arg("path"));
  auto cache = bound_class<PrefixCache>();
  def_method(cache, "PrefixCache.save", &py_save_cache, docs::kSaveCache, py::arg("dir"));
  def_method(cache, "PrefixCache.load", &py_load_cache, docs::kLoadCache, py::arg("dir"));
}

}  // namespace quire::python
