#include <cstdint>
#include <string_view>
#include <type_traits>
#include <variant>

#include "arguments.h"
#include "bindings.h"
#include "fast_function.h"
#include "gguf_docs.h"
#include "quire/io/gguf_header.h"
#include "quire/io/mapped_file.h"

namespace quire::python {
namespace {

namespace py = pybind11;

py::object to_python(const GgufValue& value) {
  return std::visit(
      [](const auto& it) -> py::object {
        using T = std::decay_t<decltype(it)>;
        if constexpr (std::is_same_v<T, std::string_view>) {
          PyObject* const text = PyUnicode_DecodeUTF8(it.data(), static_cast<Py_ssize_t>(it.size()),
                                                      "surrogateescape");
          if (text == nullptr) throw py::error_already_set();
          return py::reinterpret_steal<py::object>(text);
        } else if constexpr (std::is_same_v<T, GgufArray>) {
          py::list items;
          it.for_each([&](const GgufValue& item) { items.append(to_python(item)); });
          return items;
        } else {
          return py::cast(it);
        }
      },
      value.variant());
}

py::object py_gguf_metadata(py::handle path) {
  constexpr const char* function = "gguf_metadata";
  const MappedFile file(function, to_path({function, "path"}, path));
  const GgufHeader header = read_gguf_header(file.contents());
  py::dict metadata;
  for (const auto& [key, value] : header.metadata) metadata[py::str(key)] = to_python(value);
  return metadata;
}

}  // namespace

void bind_gguf(py::module_& m) {
  FastFunction<&py_gguf_metadata>::define(m, "gguf_metadata", docs::kGgufMetadata, py::arg("path"));
}

}  // namespace quire::python
