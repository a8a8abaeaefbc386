#include "dlpack_export.h"

#include <array>
#include <cstdlib>
#include <new>
#include <utility>

#include "bound_class.h"
#include "fast_function.h"
#include "gil.h"
#include "numpy_view.h"
#include "quire/base/aligned_buffer.h"

namespace quire::python {
namespace {

namespace py = pybind11;

constexpr const char* kProducer = "DLPackArray.__dlpack__";

dlpack::DataType data_type_of(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return {dlpack::kFloat, 32, 1};
    case DType::float16:
      return {dlpack::kFloat, 16, 1};
    case DType::bfloat16:
      return {dlpack::kBfloat, 16, 1};
    case DType::int8:
      return {dlpack::kInt, 8, 1};
    case DType::float8_e4m3fn:
      return {dlpack::kFloat8E4M3Fn, 8, 1};
    case DType::float8_e5m2:
      return {dlpack::kFloat8E5M2, 8, 1};
    case DType::int4:
      return {dlpack::kUInt, 8, 1};
  }
  return {};
}

std::int64_t bytes_of_element(const SharedArray& array) {
  if (!array.integers) return static_cast<std::int64_t>(size_of(array.view.dtype));
  return *array.integers == IndexType::int32 ? 4 : 8;
}

dlpack::DataType data_type_of(const SharedArray& array) {
  if (!array.integers) return data_type_of(array.view.dtype);
  return {dlpack::kInt, static_cast<std::uint8_t>(8 * bytes_of_element(array)), 1};
}

// What a tensor's context points to: shape and strides, which the tensor only points to as well,
// and the memory.
struct Context {
  explicit Context(const SharedArray& shared)
      : array(shared), shape(shared.view.shape), strides(shared.view.strides) {
    for (std::int64_t& stride : strides) stride /= bytes_of_element(shared);
  }

  dlpack::Tensor tensor() {
    return {array.view.data, dlpack::kCpu,   0, array.view.ndim, data_type_of(array),
            shape.data(),    strides.data(), 0};
  }

  const SharedArray array;
  std::array<std::int64_t, kMaxDims> shape, strides;
};

// Of a Versioned or a Managed, whose members have the same names.
template <class T>
void delete_tensor(T* tensor) {
  delete static_cast<Context*>(tensor->context);
  delete tensor;
}

// A capsule that nobody has taken has its first name still.
template <class T>
void delete_capsule(PyObject* capsule) {
  constexpr bool versioned = std::is_same_v<T, dlpack::Versioned>;
  const char* const name = versioned ? dlpack::kVersionedName : dlpack::kManagedName;
  if (PyCapsule_IsValid(capsule, name) == 0) return;
  delete_tensor(static_cast<T*>(PyCapsule_GetPointer(capsule, name)));
}

template <class T>
py::object capsule_over(T* tensor, const char* name) {
  PyObject* const capsule = PyCapsule_New(tensor, name, &delete_capsule<T>);
  if (capsule != nullptr) return py::reinterpret_steal<py::object>(capsule);
  delete_tensor(tensor);
  throw py::error_already_set();
}

[[noreturn]] void refuse_export(const char* what) {
  PyErr_SetString(PyExc_BufferError, concat(kProducer, ": ", what).c_str());
  throw py::error_already_set();
}

// As the array API standard has it: without max_version, or with one before 1.0, the capsule is one
// without a version, which cannot say that memory may not be written.
py::object py_dlpack(py::handle self, py::handle stream, py::handle max_version,
                     py::handle dl_device, py::handle copy) {
  const auto& array = self.cast<const SharedArray&>();
  const py::tuple cpu = py::make_tuple(static_cast<int>(dlpack::kCpu), 0);
  if (!stream.is_none()) refuse_export("stream: got one, expected None, as memory is the CPU's");
  if (!dl_device.is_none() && !dl_device.equal(cpu)) {
    refuse_export("dl_device: got another device, expected (1, 0), the CPU");
  }
  if (!copy.is_none() && to_bool({kProducer, "copy"}, copy)) {
    refuse_export("copy: got True, expected False or None");
  }
  const bool versioned =
      !max_version.is_none() && to_int({kProducer, "max_version"}, max_version[py::int_(0)]) >= 1;
  if (versioned) return capsule_over(new_tensor(array).release(), dlpack::kVersionedName);
  if (!array.view.writable) {
    refuse_export("max_version: got none or one before 1.0, which has no read-only arrays");
  }
  auto context = std::make_unique<Context>(array);
  auto tensor = std::make_unique<dlpack::Managed>(
      dlpack::Managed{context->tensor(), context.get(), &delete_tensor<dlpack::Managed>});
  context.release();
  return capsule_over(tensor.release(), dlpack::kManagedName);
}

py::object py_dlpack_of(py::handle array) {
  FloatArray found = to_cache_array({"as_tensor", "array"}, array);  // who calls this
  return dlpack_producer({found.view, shared_object(std::move(found.owner))});
}

}  // namespace

std::shared_ptr<void> shared_object(py::object object) {
  return {object.release().ptr(), [](void* held) {
            if (Py_IsInitialized() == 0) return;  // Python has let go of all its objects by then
            const WithGil locked;
            Py_DECREF(static_cast<PyObject*>(held));
          }};
}

std::int64_t bytes_of(DType dtype, std::span<const std::int64_t> shape) {
  auto bytes = static_cast<std::int64_t>(size_of(dtype));
  for (const std::int64_t length : shape) {
    if (__builtin_mul_overflow(bytes, length, &bytes)) throw std::bad_alloc();
  }
  return bytes;
}

OwnedTensor new_tensor(DType dtype, std::span<const std::int64_t> shape, ArrayView* view) {
  // the tensor, and behind it what it points to
  struct Piece {
    dlpack::Versioned tensor;
    std::array<std::int64_t, kMaxDims> shape, strides;
  };
  std::size_t bytes = sizeof(Piece) + kCacheLine;
  if (__builtin_add_overflow(bytes, bytes_of(dtype, shape), &bytes)) throw std::bad_alloc();
  void* const memory = std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  auto* const piece = new (memory) Piece{};
  void* data = piece + 1;
  std::size_t room = bytes - sizeof(Piece);
  std::align(kCacheLine, 0, data, room);
  *view = contiguous_view(data, dtype, shape);
  piece->shape = view->shape;
  piece->strides = view->strides;
  for (std::int64_t& stride : piece->strides) stride /= static_cast<std::int64_t>(size_of(dtype));
  const auto free_piece = [](dlpack::Versioned* tensor) { std::free(tensor->context); };
  piece->tensor = {1,
                   0,
                   piece,
                   free_piece,
                   0,
                   {data, dlpack::kCpu, 0, view->ndim, data_type_of(dtype), piece->shape.data(),
                    piece->strides.data(), 0}};
  return {&piece->tensor, free_piece};
}

OwnedTensor new_tensor(const SharedArray& array) {
  auto context = std::make_unique<Context>(array);
  auto tensor = std::make_unique<dlpack::Versioned>(
      dlpack::Versioned{1, 0, context.get(), &delete_tensor<dlpack::Versioned>,
                        array.view.writable ? 0 : dlpack::kReadOnly, context->tensor()});
  context.release();
  return {tensor.release(), &delete_tensor<dlpack::Versioned>};
}

py::object dlpack_producer(SharedArray array) {
  return py::cast(std::make_shared<SharedArray>(std::move(array)));
}

void bind_dlpack_export(py::module_& m) {
  auto producer = bind_class<SharedArray, std::shared_ptr<SharedArray>>(
      m, "DLPackArray", "Memory that other libraries' from_dlpack make an array over.");
  FastFunction<&py_dlpack>::define_method(
      producer, kProducer,
      R"(__dlpack__($self, *, stream=None, max_version=None, dl_device=None, copy=None)
--

A capsule of DLPack, as the array API standard describes it.)",
      py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
      py::arg("dl_device") = py::none(), py::arg("copy") = py::none());
  producer.def(
      "__dlpack_device__",
      [](const SharedArray&) { return py::make_tuple(static_cast<int>(dlpack::kCpu), 0); },
      "(1, 0), the CPU.");
  producer.def("__repr__", [](const SharedArray& array) {
    const std::string_view dtype = !array.integers                       ? name_of(array.view.dtype)
                                   : *array.integers == IndexType::int32 ? "int32"
                                                                         : "int64";
    return concat("DLPackArray(", dtype, " ", shape_text(array.view), ")");
  });
  FastFunction<&py_dlpack_of>::define(m, "dlpack_of", R"(dlpack_of(array)
--

An array of a cache's dtypes, of NumPy or any other library, as an object with __dlpack__.

Nothing is copied; the array lives as long as what is made of it. bfloat16 and float8_e4m3fn are
themselves, which NumPy's own __dlpack__ refuses.)",
                                      py::arg("array"));
}

}  // namespace quire::python
