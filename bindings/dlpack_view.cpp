#include "dlpack_view.h"

#include <iterator>
#include <string>
#include <string_view>

#include "quire/base/check.h"

namespace quire::python {
namespace {

namespace py = pybind11;

constexpr std::int32_t kCpu = 1;
constexpr std::int32_t kCudaHost = 3;  // CPU memory that a GPU can read
// Flags of a versioned tensor. What is written to a copy would never reach its owner.
constexpr std::uint64_t kReadOnly = 1, kIsCopied = 2;

enum Code : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kFloat8E4M3Fn = 10 };

// NumPy's and ml_dtypes' names of the codes, in their order; the bits follow where none are named.
constexpr const char* kNames[] = {"int",
                                  "uint",
                                  "float",
                                  "opaque",
                                  "bfloat",
                                  "complex",
                                  "bool",
                                  "float8_e3m4",
                                  "float8_e4m3",
                                  "float8_e4m3b11fnuz",
                                  "float8_e4m3fn",
                                  "float8_e4m3fnuz",
                                  "float8_e5m2",
                                  "float8_e5m2fnuz",
                                  "float8_e8m0fnu",
                                  "float6_e2m3fn",
                                  "float6_e3m2fn",
                                  "float4_e2m1fn"};

void require_cpu(Argument argument, std::int32_t type, std::int32_t id) {
  if (type == kCpu || type == kCudaHost) return;
  raise<TypeError>(argument.place(), "got a tensor on DLPack device (", type, ", ", id,
                   "), expected one in CPU memory (1, 0)");
}

// The capsule of an object, in the newest form that it offers.
py::object capsule_of(py::handle object) {
  const py::object method = object.attr("__dlpack__");
  try {
    return method(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return method();
}

}  // namespace

struct DlpackView::Tensor {
  struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
  };

  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: contiguous
  std::uint64_t byte_offset;
};

bool has_dlpack(py::handle object) {
  return py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__");
}

DlpackView::DlpackView(Argument argument, py::handle object) : argument_(argument) {
  const py::tuple device =
      ask_of(argument, object, [&] { return py::tuple(object.attr("__dlpack_device__")()); });
  if (device.size() != 2)
    raise<TypeError>(argument.place(), "got a __dlpack_device__ of ",
                     counted(device.size(), "number"), ", expected 2");
  const auto number = [&](int i) { return static_cast<std::int32_t>(to_int(argument, device[i])); };
  require_cpu(argument, number(0), number(1));  // before memory of a device is asked for
  capsule_ = ask_of(argument, object, [&] { return capsule_of(object); });
  if (PyCapsule_IsValid(capsule_.ptr(), "dltensor")) {
    tensor_ = static_cast<const Tensor*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor"));
    require_cpu(argument, tensor_->device_type, tensor_->device_id);
    return;
  }
  struct Versioned {
    std::uint32_t major, minor;
    void* manager_context;
    void (*deleter)(void*);
    std::uint64_t flags;
    Tensor tensor;
  };
  if (!PyCapsule_IsValid(capsule_.ptr(), "dltensor_versioned")) {
    raise<TypeError>(argument.place(), "got a __dlpack__ that returns ", type_name(capsule_),
                     ", expected a DLPack capsule");
  }
  const auto* versioned =
      static_cast<const Versioned*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor_versioned"));
  if (versioned->major != 1) {
    raise<TypeError>(argument.place(), "got DLPack version ", versioned->major, ".",
                     versioned->minor, ", expected 1");
  }
  tensor_ = &versioned->tensor;
  require_cpu(argument, tensor_->device_type, tensor_->device_id);
  writable_ = (versioned->flags & (kReadOnly | kIsCopied)) == 0;
}

namespace {

// Shape and strides in bytes; `most` axes.
template <class View, class Tensor>
void copy_shape(Argument argument, const Tensor& tensor, int most, View& view) {
  if (tensor.ndim > most) {
    raise<ValueError>(argument.place(), "got ", tensor.ndim, " axes, expected at most ", most);
  }
  const std::int64_t item = tensor.dtype.bits / 8;
  view.ndim = tensor.ndim;
  std::int64_t stride = item;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    view.shape[axis] = tensor.shape[axis];
    view.strides[axis] = tensor.strides == nullptr ? stride : tensor.strides[axis] * item;
    stride *= tensor.shape[axis];
  }
}

std::string name_of(std::uint8_t code, std::uint8_t bits, std::uint16_t lanes) {
  if (code >= std::size(kNames)) {
    return concat("of DLPack code ", int{code}, ", bits ", int{bits}, ", lanes ", lanes);
  }
  const std::string_view stem = kNames[code];
  const bool named_whole = stem == "bool" || stem.find('_') != stem.npos;
  return concat(stem, named_whole ? "" : concat(int{bits}),
                lanes == 1 ? "" : concat(" in ", lanes, " lanes"));
}

template <class Tensor>
[[noreturn]] void refuse_dtype(Argument argument, const Tensor& tensor, const char* expected) {
  const auto [code, bits, lanes] = tensor.dtype;
  raise<TypeError>(argument.place(), "got dtype ", name_of(code, bits, lanes), ", expected ",
                   expected);
}

}  // namespace

ArrayView DlpackView::float_view(bool quantised, const char* expected) const {
  ArrayView view;
  const auto [code, bits, lanes] = tensor_->dtype;
  if (lanes == 1 && code == kFloat && bits == 32) {
    view.dtype = DType::float32;
  } else if (lanes == 1 && code == kFloat && bits == 16) {
    view.dtype = DType::float16;
  } else if (lanes == 1 && code == kBfloat && bits == 16) {
    view.dtype = DType::bfloat16;
  } else if (quantised && lanes == 1 && code == kInt && bits == 8) {
    view.dtype = DType::int8;
  } else if (quantised && lanes == 1 && code == kFloat8E4M3Fn && bits == 8) {
    view.dtype = DType::float8_e4m3fn;
  } else if (quantised && lanes == 1 && code == kUInt && bits == 8) {
    view.dtype = DType::int4;
  } else {
    refuse_dtype(argument_, *tensor_, expected);
  }
  copy_shape(argument_, *tensor_, kMaxDims, view);
  view.data = static_cast<std::byte*>(tensor_->data) + tensor_->byte_offset;
  view.writable = writable_;
  return view;
}

IndexView DlpackView::index_view() const {
  const auto [code, bits, lanes] = tensor_->dtype;
  if (lanes != 1 || code != kInt || (bits != 32 && bits != 64)) {
    refuse_dtype(argument_, *tensor_, "int32 or int64");
  }
  IndexView view;
  copy_shape(argument_, *tensor_, 2, view);
  view.type = bits == 32 ? IndexType::int32 : IndexType::int64;
  view.data = static_cast<const std::byte*>(tensor_->data) + tensor_->byte_offset;
  if (reinterpret_cast<std::uintptr_t>(view.data) % (bits / 8) != 0) {
    raise<ValueError>(argument_.place(), "got elements off their alignment, expected aligned ones");
  }
  return view;
}

}  // namespace quire::python
