#include <vector>

#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "explain_docs.h"
#include "gil.h"
#include "numpy_view.h"
#include "quire/base/check.h"
#include "quire/kv/table/block_table.h"

namespace quire::python {
namespace {

namespace py = pybind11;

py::object explain(const BlockPool& pool, py::handle table) {
  const Argument argument{"BlockPool.explain", "table"};
  const auto explained = object_of<BlockTable>(argument, table);
  if (explained->pool().get() != &pool) {
    raise<ValueError>(argument.place(), "got one of another pool, expected one of this pool");
  }
  std::vector<ExplainedBlock> columns;
  {
    const WithoutGil unlocked;
    columns = explained->explain();
  }
  const py::module_ types = py::module_::import("quire.table_report");
  const py::object block_report = types.attr("BlockReport");
  py::tuple blocks(columns.size());
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const auto& [id, num_tokens, holders, is_resident, is_open] = columns[i];
    blocks[i] = block_report(id, num_tokens, holders.rows, holders.tables, holders.caches,
                             holders.users, is_resident, is_open);
  }
  return types.attr("TableReport")(pool.geometry().block_size, blocks);
}

}  // namespace

void bind_explain(py::module_&) {
  auto pool = bound_class<BlockPool>();
  def_method(pool, "BlockPool.explain", &explain, docs::kExplain, py::arg("table"));
}

}  // namespace quire::python
