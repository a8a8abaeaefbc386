#include "dlpack_view.h"

#include <iterator>
#include <string>
#include <string_view>

#include "quire/base/check.h"

namespace quire::python {
namespace {

namespace py = pybind11;

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
  if (type == dlpack::kCpu || type == dlpack::kCudaHost) return;
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

// The destructor of a capsule that we have made and nobody has taken.
void delete_versioned(PyObject* capsule) {
  auto* const tensor =
      static_cast<dlpack::Versioned*>(PyCapsule_GetPointer(capsule, dlpack::kVersionedName));
  if (tensor != nullptr && tensor->deleter != nullptr) tensor->deleter(tensor);
}

// The same without Python's code, where the library has functions for it.
py::object capsule_by(const dlpack::ExchangeApi& api, py::handle object) {
  dlpack::Versioned* tensor = nullptr;
  if (api.from_object(object.ptr(), &tensor) != 0) throw py::error_already_set();
  PyObject* const capsule = PyCapsule_New(tensor, dlpack::kVersionedName, &delete_versioned);
  if (capsule == nullptr) {
    tensor->deleter(tensor);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

bool needs_gradient(py::handle object) {
  static const py::handle name = py::str("requires_grad").release();  // never destroyed
  const auto needs = py::reinterpret_steal<py::object>(PyObject_GetAttr(object.ptr(), name.ptr()));
  if (!needs) throw py::error_already_set();
  const int truth = PyObject_IsTrue(needs.ptr());
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

}  // namespace

bool has_dlpack(py::handle object) {
  return py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__");
}

bool can_be_opened(const ArrayLibrary& library, py::handle object) {
  return library.opens != nullptr && !(library.has_gradients && needs_gradient(object));
}

DlpackView::DlpackView(Argument argument, const ArrayLibrary& library, py::handle object)
    : argument_(argument) {
  capsule_ = ask_of(argument, object, [&] { return capsule_by(*library.opens, object); });
  take_versioned();
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
  if (PyCapsule_IsValid(capsule_.ptr(), dlpack::kManagedName)) {
    tensor_ = &static_cast<const dlpack::Managed*>(
                   PyCapsule_GetPointer(capsule_.ptr(), dlpack::kManagedName))
                   ->tensor;
    require_cpu(argument, tensor_->device_type, tensor_->device_id);
    return;
  }
  if (!PyCapsule_IsValid(capsule_.ptr(), dlpack::kVersionedName)) {
    raise<TypeError>(argument.place(), "got a __dlpack__ that returns ", type_name(capsule_),
                     ", expected a DLPack capsule");
  }
  take_versioned();
}

void DlpackView::take_versioned() {
  const auto* versioned = static_cast<const dlpack::Versioned*>(
      PyCapsule_GetPointer(capsule_.ptr(), dlpack::kVersionedName));
  if (versioned->major != 1) {
    raise<TypeError>(argument_.place(), "got DLPack version ", versioned->major, ".",
                     versioned->minor, ", expected 1");
  }
  tensor_ = &versioned->tensor;
  require_cpu(argument_, tensor_->device_type, tensor_->device_id);
  writable_ = (versioned->flags & (dlpack::kReadOnly | dlpack::kIsCopied)) == 0;
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
  if (lanes == 1 && code == dlpack::kFloat && bits == 32) {
    view.dtype = DType::float32;
  } else if (lanes == 1 && code == dlpack::kFloat && bits == 16) {
    view.dtype = DType::float16;
  } else if (lanes == 1 && code == dlpack::kBfloat && bits == 16) {
    view.dtype = DType::bfloat16;
  } else if (quantised && lanes == 1 && code == dlpack::kInt && bits == 8) {
    view.dtype = DType::int8;
  } else if (quantised && lanes == 1 && code == dlpack::kFloat8E4M3Fn && bits == 8) {
    view.dtype = DType::float8_e4m3fn;
  } else if (quantised && lanes == 1 && code == dlpack::kFloat8E5M2 && bits == 8) {
    view.dtype = DType::float8_e5m2;
  } else if (quantised && lanes == 1 && code == dlpack::kUInt && bits == 8) {
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
  if (lanes != 1 || code != dlpack::kInt || (bits != 32 && bits != 64)) {
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

DlpackView::Bools DlpackView::bools() const {
  const auto [code, bits, lanes] = tensor_->dtype;
  if (lanes != 1 || code != dlpack::kBool || bits != 8) refuse_dtype(argument_, *tensor_, "bool");
  if (tensor_->ndim != 1) {
    raise<ValueError>(argument_.place(), "got ", tensor_->ndim, " axes, expected 1");
  }
  return {static_cast<const std::byte*>(tensor_->data) + tensor_->byte_offset, tensor_->shape[0],
          tensor_->strides == nullptr ? 1 : tensor_->strides[0]};
}

}  // namespace quire::python
