#include "arguments.h"
#include "bindings.h"
#include "config_docs.h"
#include "fast_function.h"
#include "gil.h"
#include "numpy_view.h"
#include "quire/base/check.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/probe/arithmetic_peak.h"
#include "quire/cpu/probe/read_chunks.h"
#include "quire/cpu/select_kernels.h"

namespace quire::python {
namespace {

namespace py = pybind11;

py::list names(const std::vector<std::string_view>& views) {
  py::list list;
  for (const std::string_view view : views) list.append(std::string(view));
  return list;
}

py::object build_info() {
  py::dict info;
  info["version"] = QUIRE_VERSION;
  info["compiler"] = QUIRE_COMPILER;
  info["instruction_sets_built"] = names(built_instruction_sets());
  info["instruction_sets_available"] = names(available_instruction_sets());
  py::dict missing;
  for (const MissingInstructionSet& set : missing_instruction_sets()) {
    missing[py::str(std::string(set.name))] = std::string(set.reason);
  }
  info["instruction_sets_missing"] = missing;
  const SelectedKernels& kernels = selected_kernels();
  const auto set_of = [&](DType cache) {
    return std::string(kernels.attention(cache).instruction_set());
  };
  info["instruction_set"] = set_of(DType::bfloat16);
  info["instruction_set_of_quantised"] = set_of(DType::int8);
  info["chunk_invariant"] = kernels.attention(DType::bfloat16).is_chunk_invariant();
  info["num_threads"] = default_num_threads();
  return info;
}

// 1 to 1024. Throws TypeError and ValueError.
int thread_count(const char* function, py::handle num_threads) {
  const Argument argument{function, "num_threads"};
  const std::int64_t threads = to_int(argument, num_threads);
  if (threads < 1 || threads > 1024) {
    raise<ValueError>(argument.place(), "got ", threads, ", expected 1 to 1024");
  }
  return static_cast<int>(threads);
}

double timed_read_chunks(py::handle buffer, py::handle chunk_bytes, py::handle order,
                         py::handle num_threads) {
  constexpr const char* function = "read_chunks";
  const ByteArray bytes = to_byte_array({function, "buffer"}, buffer);
  const std::int64_t chunk = to_int({function, "chunk_bytes"}, chunk_bytes);
  const IndexArray chunks = to_index_array({function, "order"}, order);
  const int threads = thread_count(function, num_threads);
  if (chunk < 64 || chunk % 64 != 0) {
    raise<ValueError>("read_chunks: chunk_bytes", "got ", chunk, ", expected a multiple of 64");
  }
  if (chunks.view.ndim != 1) {
    raise<ValueError>("read_chunks: order", "got shape ", shape_text(chunks.view),
                      ", expected one axis");
  }
  std::vector<std::int64_t> checked(static_cast<std::size_t>(chunks.view.shape[0]));
  for (std::size_t i = 0; i < checked.size(); ++i) {
    checked[i] = chunks.view.at(static_cast<std::int64_t>(i));
    if (checked[i] < 0 || checked[i] >= bytes.size / chunk) {
      raise<IndexError>("read_chunks: order", "got ", checked[i], " at ", i, ", expected 0 to ",
                        bytes.size / chunk - 1);
    }
  }
  const WithoutGil unlocked;
  return read_chunks(bytes.data, chunk, checked.data(), static_cast<std::int64_t>(checked.size()),
                     threads);
}

double measured_arithmetic_peak(py::handle kind, py::handle num_threads) {
  constexpr const char* function = "arithmetic_peak";
  const std::string name = to_string({function, "kind"}, kind);
  if (name != name_of(DType::float32) && name != name_of(DType::bfloat16)) {
    raise<ValueError>("arithmetic_peak: kind", "got \"", name, "\", expected float32 or bfloat16");
  }
  const DType dtype = name == name_of(DType::float32) ? DType::float32 : DType::bfloat16;
  const int threads = thread_count(function, num_threads);
  // under the GIL, as it may read the environment
  const ProbeKernels& kernels = *selected_kernels().probe;
  const WithoutGil unlocked;
  return arithmetic_peak(dtype, threads, kernels);
}

}  // namespace

void bind_config(py::module_& m) {
  m.attr("__version__") = QUIRE_VERSION;
  FastFunction<&build_info>::define(m, "build_info", docs::kBuildInfo);
  m.def("read_environment_again", &read_environment_again);
  m.def("read_chunks", &timed_read_chunks, py::arg("buffer"), py::arg("chunk_bytes"),
        py::arg("order"), py::arg("num_threads"));
  m.def("arithmetic_peak", &measured_arithmetic_peak, py::arg("kind"), py::arg("num_threads"));
}

}  // namespace quire::python
