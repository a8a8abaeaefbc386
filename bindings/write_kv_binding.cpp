#include <optional>

#include "bindings.h"
#include "docstrings.h"
#include "fast_function.h"
#include "gil.h"
#include "numpy_view.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/operations.h"
#include "quire/cpu/select_kernels.h"
#include "quire/ops/cache/write_kv.h"

namespace quire::python {
namespace {

namespace py = pybind11;

py::object py_write_kv(py::handle k, py::handle v, py::handle k_cache, py::handle v_cache,
                       py::handle slot_mapping, py::handle k_scale, py::handle v_scale,
                       py::handle k_open, py::handle v_open, py::handle cache_dtype,
                       py::handle layout) {
  constexpr const char* function = "write_kv";
  const FloatArray k_array = to_float_array({function, "k"}, k);
  const std::optional<FloatArray> v_array = to_optional_floats({function, "v"}, v);
  const std::optional<DType> dtype = to_optional_dtype({function, "cache_dtype"}, cache_dtype);
  const FloatArray k_cache_array = to_cache_array({function, "k_cache"}, k_cache, dtype);
  std::optional<FloatArray> v_cache_array;
  if (!v_cache.is_none()) v_cache_array = to_cache_array({function, "v_cache"}, v_cache, dtype);
  const IndexArray slots = to_index_array({function, "slot_mapping"}, slot_mapping);
  const ScaleArray k_scale_array({function, "k_scale"}, k_scale, k_cache_array.view.dtype);
  const ScaleArray v_scale_array({function, "v_scale"}, v_scale,
                                 (v_cache_array ? *v_cache_array : k_cache_array).view.dtype);
  const std::optional<FloatArray> k_blocks = to_optional_floats({function, "k_open"}, k_open);
  const std::optional<FloatArray> v_blocks = to_optional_floats({function, "v_open"}, v_open);
  const WriteKvArgs args{k_array.view,         view_of(v_array),
                         k_cache_array.view,   view_of(v_cache_array),
                         slots.view,           to_layout({function, "layout"}, layout),
                         k_scale_array.view(), v_scale_array.view(),
                         view_of(k_blocks),    view_of(v_blocks)};
  const Execution how = default_execution();  // under the GIL, as it reads the environment
  {
    const WithoutGil unlocked;
    write_kv(args, how);
  }
  return py::none();
}

}  // namespace

void bind_write_kv(py::module_& m) {
  FastFunction<&py_write_kv>::define(
      m, "write_kv", docs::kWriteKv, py::arg("k"), py::arg("v"), py::arg("k_cache"),
      py::arg("v_cache"), py::arg("slot_mapping"), py::kw_only(), py::arg("k_scale") = py::none(),
      py::arg("v_scale") = py::none(), py::arg("k_open") = py::none(),
      py::arg("v_open") = py::none(), py::arg("cache_dtype") = py::none(),
      py::arg("layout") = "NHD");
}

}  // namespace quire::python
