#include "numpy_view.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <array>

#include "dlpack_view.h"
#include "quire/base/check.h"
#include "quire/format/cache_format.h"

namespace quire::python {
namespace {

namespace py = pybind11;

// NumPy's numbers for the dtypes that we take. bfloat16 and float8 are registered by ml_dtypes, so
// their numbers are known only at run time.
struct TypeNumbers {
  int float32 = 0, float16 = 0, bfloat16 = 0, int8 = 0, float8 = 0, float8_e5m2 = 0;
  int int32 = 0, int64 = 0, uint8 = 0;
  PyObject* dtypes[7] = {};    // indexed by DType; owned for the life of the process
  PyObject* scalar = nullptr;  // the type of NumPy's numbers, likewise
};
TypeNumbers numbers;

// The tensor behind an object that its library can open; none for ndarrays and where it cannot.
std::optional<DlpackView> as_tensor(Argument argument, py::handle object) {
  if (is_ndarray(object)) return std::nullopt;
  const ArrayLibrary library = library_of(object);
  if (!can_be_opened(library, object)) return std::nullopt;
  return DlpackView(argument, library, object);
}

// The array behind `object`, if need be through __array_interface__; null where there is none.
py::object as_ndarray(Argument argument, py::handle object) {
  if (is_ndarray(object)) return py::reinterpret_borrow<py::object>(object);
  if (!py::hasattr(object, "__array_interface__")) return py::object();
  const py::object asarray = py::module_::import("numpy").attr("asarray");
  py::object array = ask_of(argument, object, [&] { return asarray(object); });
  // that interface has no name for bfloat16; DLPack has
  const bool nameless = py::reinterpret_borrow<py::array>(array).dtype().kind() == 'V';
  return nameless && has_dlpack(object) ? py::object() : array;
}

bool is_writable(const py::array& array) {
  return (array.flags() & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
}

void require_native(Argument argument, const py::dtype& dtype) {
  const char order = dtype.byteorder();
  if (order == '=' || order == '|') return;
  raise<ValueError>(argument.place(), "got dtype ", std::string(py::str(dtype)),
                    " with swapped bytes, expected the machine's order");
}

template <std::size_t kMost, class View>
void copy_shape(Argument argument, const py::array& array, View& view) {
  if (array.ndim() > static_cast<py::ssize_t>(kMost)) {
    raise<ValueError>(argument.place(), "got ", array.ndim(), " axes, expected at most ", kMost);
  }
  view.ndim = static_cast<int>(array.ndim());
  for (int axis = 0; axis < view.ndim; ++axis) {
    view.shape[axis] = array.shape(axis);
    view.strides[axis] = array.strides(axis);
  }
}

[[noreturn]] void refuse(Argument argument, py::handle object, const char* expected) {
  raise<TypeError>(argument.place(), "got ", type_name(object), ", expected ", expected);
}

constexpr const char* kFloats = "an array of float32, float16 or bfloat16";
constexpr const char* kCaches =
    "an array of float32, float16, bfloat16, int8, float8_e4m3fn, float8_e5m2 or uint8 (int4)";
constexpr const char* kIndices = "an array of int32 or int64";

}  // namespace

void initialise_numpy() {
  const auto keep = [](DType dtype, py::object object) {
    numbers.dtypes[static_cast<int>(dtype)] = object.release().ptr();
  };
  const py::module_ ml_dtypes = py::module_::import("ml_dtypes");
  const py::dtype bfloat16 = py::dtype::from_args(ml_dtypes.attr("bfloat16"));
  const py::dtype float8 = py::dtype::from_args(ml_dtypes.attr("float8_e4m3fn"));
  const py::dtype float8_e5m2 = py::dtype::from_args(ml_dtypes.attr("float8_e5m2"));
  numbers.float32 = py::dtype("float32").num();
  numbers.float16 = py::dtype("float16").num();
  numbers.bfloat16 = bfloat16.num();
  numbers.int8 = py::dtype("int8").num();
  numbers.float8 = float8.num();
  numbers.float8_e5m2 = float8_e5m2.num();
  numbers.int32 = py::dtype("int32").num();
  numbers.int64 = py::dtype("int64").num();
  numbers.uint8 = py::dtype("uint8").num();
  numbers.scalar = py::module_::import("numpy").attr("generic").cast<py::object>().release().ptr();
  keep(DType::float32, py::dtype("float32"));
  keep(DType::float16, py::dtype("float16"));
  keep(DType::bfloat16, bfloat16);
  keep(DType::int8, py::dtype("int8"));
  keep(DType::float8_e4m3fn, float8);
  keep(DType::float8_e5m2, float8_e5m2);
  keep(DType::int4, py::dtype("uint8"));
}

namespace {

// An array of any dtype of a cache; `expected` and `dtypes` are for messages.
FloatArray to_array(Argument argument, py::handle object, bool quantised, const char* expected,
                    const char* dtypes) {
  if (const auto tensor = as_tensor(argument, object)) {
    return {tensor->float_view(quantised, dtypes), tensor->owner()};
  }
  const py::object found = as_ndarray(argument, object);
  if (!found) {
    if (!has_dlpack(object)) refuse(argument, object, expected);
    const DlpackView tensor(argument, object);
    return {tensor.float_view(quantised, dtypes), tensor.owner()};
  }
  const py::array array = py::reinterpret_borrow<py::array>(found);
  const py::dtype dtype = array.dtype();
  FloatArray result{{}, found};
  const int number = dtype.num();
  if (number == numbers.float32) {
    result.view.dtype = DType::float32;
  } else if (number == numbers.float16) {
    result.view.dtype = DType::float16;
  } else if (number == numbers.bfloat16) {
    result.view.dtype = DType::bfloat16;
  } else if (quantised && number == numbers.int8) {
    result.view.dtype = DType::int8;
  } else if (quantised && number == numbers.float8) {
    result.view.dtype = DType::float8_e4m3fn;
  } else if (quantised && number == numbers.float8_e5m2) {
    result.view.dtype = DType::float8_e5m2;
  } else if (quantised && number == numbers.uint8) {
    result.view.dtype = DType::int4;
  } else {
    raise<TypeError>(argument.place(), "got dtype ", std::string(py::str(dtype)), ", expected ",
                     dtypes);
  }
  require_native(argument, dtype);
  copy_shape<kMaxDims>(argument, array, result.view);
  result.view.data = static_cast<std::byte*>(const_cast<void*>(array.data()));
  result.view.writable = is_writable(array);
  return result;
}

}  // namespace

bool is_ndarray(py::handle object) { return py::isinstance<py::array>(object); }

FloatArray to_float_array(Argument argument, py::handle object) {
  return to_array(argument, object, false, kFloats, "float32, float16 or bfloat16");
}

FloatArray to_query_array(Argument argument, py::handle object) {
  constexpr const char* dtypes =
      "float32, float16 or bfloat16, or a float8 where the keys are of one";
  FloatArray array = to_array(argument, object, true, kFloats, dtypes);
  const DType dtype = array.view.dtype;
  if (!is_quantised(dtype) || is_float8(dtype)) return array;
  raise<TypeError>(argument.place(), "got dtype ", dtype == DType::int4 ? "uint8" : name_of(dtype),
                   ", expected ", dtypes);
}

std::optional<FloatArray> to_optional_floats(Argument argument, py::handle object) {
  if (object.is_none()) return std::nullopt;
  return to_float_array(argument, object);
}

std::optional<IndexArray> to_optional_indices(Argument argument, py::handle object) {
  if (object.is_none()) return std::nullopt;
  return to_index_array(argument, object);
}

FloatArray to_cache_array(Argument argument, py::handle object, std::optional<DType> cache_dtype) {
  FloatArray array =
      to_array(argument, object, true, kCaches,
               "float32, float16, bfloat16, int8, float8_e4m3fn, float8_e5m2 or uint8 (int4)");
  if (!cache_dtype) return array;
  DType& dtype = array.view.dtype;
  if (dtype == DType::int4 && is_float8(*cache_dtype)) dtype = *cache_dtype;
  require_cache_dtype(argument, dtype, *cache_dtype);
  return array;
}

void require_cache_dtype(Argument cache, DType known, DType cache_dtype) {
  if (known == cache_dtype) return;
  const bool is_bytes = known == DType::int4;
  raise<TypeError>(place(cache.function, "cache_dtype"), "got ", name_of(cache_dtype), " for a ",
                   cache.name, " of ", is_bytes ? "uint8" : name_of(known), ", expected ",
                   is_bytes ? "float8_e4m3fn, float8_e5m2 or int4" : name_of(known), ", or None");
}

bool shows_array(py::handle object) {
  if (is_ndarray(object)) return true;
  if (PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr())) return false;
  if (PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(numbers.scalar)) != 0) {
    return false;
  }
  return has_dlpack(object) || py::hasattr(object, "__array_interface__");
}

ScaleArray::ScaleArray(Argument argument, py::handle object, DType cache_dtype) {
  if (object.is_none()) return;
  if (shows_array(object)) {
    const char* const dtypes =
        cache_dtype == DType::int4  ? "float16 [..., 2], the grids of a cache of int4"
        : is_quantised(cache_dtype) ? "float32, the scales of a cache of int8 or a float8"
                                    : "None, as the cache is not quantised";
    const FloatArray array = to_array(argument, object, false, kFloats, dtypes);
    view_ = array.view;
    owner_ = array.owner;
    return;
  }
  number_ = static_cast<float>(*to_optional_double(argument, object));
  view_ = contiguous_view(&number_, DType::float32, {});
}

IndexArray to_index_array(Argument argument, py::handle object) {
  if (const auto tensor = as_tensor(argument, object)) {
    return {tensor->index_view(), tensor->owner(), tensor->writable()};
  }
  const py::object found = as_ndarray(argument, object);
  if (!found) {
    if (!has_dlpack(object)) refuse(argument, object, kIndices);
    const DlpackView tensor(argument, object);
    return {tensor.index_view(), tensor.owner(), tensor.writable()};
  }
  const py::array array = py::reinterpret_borrow<py::array>(found);
  const py::dtype dtype = array.dtype();
  // two of NumPy's types are 64 bits wide on some systems, so the kind and size decide
  if (dtype.kind() != 'i' || (dtype.itemsize() != 4 && dtype.itemsize() != 8)) {
    raise<TypeError>(argument.place(), "got dtype ", std::string(py::str(dtype)),
                     ", expected int32 or int64");
  }
  require_native(argument, dtype);
  IndexArray result{{}, found, is_writable(array)};
  copy_shape<2>(argument, array, result.view);
  if ((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
    raise<ValueError>(argument.place(), "got elements off their alignment, expected aligned ones");
  }
  result.view.type = dtype.itemsize() == 4 ? IndexType::int32 : IndexType::int64;
  result.view.data = static_cast<const std::byte*>(array.data());
  return result;
}

namespace {

// `count` bools, `stride` bytes from one to the next; whatever is not 0 is true.
BoolArray copy_of_bools(const void* data, std::int64_t count, std::int64_t stride) {
  BoolArray bools{std::make_unique<bool[]>(static_cast<std::size_t>(count)),
                  static_cast<std::size_t>(count)};
  const auto* const bytes = static_cast<const unsigned char*>(data);
  for (std::int64_t i = 0; i < count; ++i) bools.values[i] = bytes[i * stride] != 0;
  return bools;
}

BoolArray copy_of_bools(const DlpackView& tensor) {
  const DlpackView::Bools bools = tensor.bools();
  return copy_of_bools(bools.data, bools.count, bools.stride);
}

}  // namespace

BoolArray to_bool_array(Argument argument, py::handle object) {
  if (const auto tensor = as_tensor(argument, object)) return copy_of_bools(*tensor);
  const py::object found = as_ndarray(argument, object);
  if (!found) {
    if (!has_dlpack(object)) refuse(argument, object, "an array of bool");
    return copy_of_bools(DlpackView(argument, object));
  }
  const py::array array = py::reinterpret_borrow<py::array>(found);
  if (array.dtype().kind() != 'b') {
    raise<TypeError>(argument.place(), "got dtype ", std::string(py::str(array.dtype())),
                     ", expected bool");
  }
  if (array.ndim() != 1) {
    raise<ValueError>(argument.place(), "got ", array.ndim(), " axes, expected 1");
  }
  return copy_of_bools(array.data(), array.shape(0), array.strides(0));
}

ByteArray to_byte_array(Argument argument, py::handle object) {
  const py::object found = as_ndarray(argument, object);
  if (!found) refuse(argument, object, "an array of uint8");
  const py::array array = py::reinterpret_borrow<py::array>(found);
  if (array.dtype().num() != numbers.uint8 || array.ndim() != 1 ||
      (array.size() > 1 && array.strides(0) != 1)) {
    refuse(argument, object, "a contiguous array of uint8 with one axis");
  }
  return {static_cast<std::byte*>(const_cast<void*>(array.data())), array.size(), found};
}

py::object numpy_dtype(DType dtype) {
  return py::reinterpret_borrow<py::object>(numbers.dtypes[static_cast<int>(dtype)]);
}

py::object new_float_array(DType dtype, std::initializer_list<std::int64_t> shape,
                           ArrayView* view) {
  return new_float_array(dtype, std::span(shape.begin(), shape.size()), view);
}

py::object new_float_array(DType dtype, std::span<const std::int64_t> shape, ArrayView* view) {
  // straight from NumPy: py::array would copy the shape, and strides of its own making, to the heap
  const auto& numpy = py::detail::npy_api::get();
  std::array<Py_ssize_t, kMaxDims> lengths{};
  std::copy(shape.begin(), shape.end(), lengths.begin());
  const auto array = py::reinterpret_steal<py::array>(numpy.PyArray_NewFromDescr_(
      numpy.PyArray_Type_, numpy_dtype(dtype).release().ptr(), static_cast<int>(shape.size()),
      lengths.data(), nullptr, nullptr, 0, nullptr));
  if (!array) throw py::error_already_set();
  *view = contiguous_view(const_cast<void*>(array.data()), dtype, shape);
  return array;
}

template <class T>
py::object new_index_array(const std::vector<std::int64_t>& shape, T** data) {
  py::array_t<T> array(shape);
  *data = array.mutable_data();
  return array;
}
template py::object new_index_array<std::int32_t>(const std::vector<std::int64_t>&, std::int32_t**);
template py::object new_index_array<std::int64_t>(const std::vector<std::int64_t>&, std::int64_t**);
template py::object new_index_array<bool>(const std::vector<std::int64_t>&, bool**);

py::object array_over(const ArrayView& view, py::handle owner) {
  const std::vector<py::ssize_t> shape(view.shape.begin(), view.shape.begin() + view.ndim);
  const std::vector<py::ssize_t> strides(view.strides.begin(), view.strides.begin() + view.ndim);
  return py::array(py::reinterpret_borrow<py::dtype>(numpy_dtype(view.dtype)), shape, strides,
                   view.data, owner);
}

DType to_dtype(Argument argument, py::handle object) {
  if (PyUnicode_Check(object.ptr()))
    return dtype_from_name(to_string(argument, object), argument.place());
  py::object dtype;
  try {
    dtype = py::dtype::from_args(py::reinterpret_borrow<py::object>(object));
  } catch (py::error_already_set&) {
    refuse(argument, object,
           "float32, float16, bfloat16, int8, float8_e4m3fn, float8_e5m2 or int4");
  }
  return dtype_from_name(std::string(py::str(dtype)), argument.place());
}

std::optional<DType> to_optional_dtype(Argument argument, py::handle object) {
  if (object.is_none()) return std::nullopt;
  return to_dtype(argument, object);
}

}  // namespace quire::python
