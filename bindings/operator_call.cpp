#include "operator_call.h"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace quire::python {

namespace py = pybind11;

double to_double(Argument argument, py::handle object) {
  if (const auto number = to_optional_double(argument, object)) return *number;
  raise<TypeError>(argument.place(), "got None, expected a number");
}

OutArray::OutArray(Argument argument, py::handle out, py::handle given, DType dtype,
                   std::span<const std::int64_t> shape) {
  if (out.is_none()) {
    made_ = ResultArray(given, dtype, shape);
  } else {
    given_ = to_float_array(argument, out);
    out_ = py::reinterpret_borrow<py::object>(out);
  }
}

py::object OutArray::take() { return made_ ? made_.take() : std::move(out_); }

DType to_weight_format(Argument argument, pybind11::handle object) {
  const std::string_view name = to_text(argument, object);
  for (const DType format :
       {DType::float32, DType::float16, DType::bfloat16, DType::int8, DType::int4}) {
    if (name == name_of(format)) return format;
  }
  raise<ValueError>(argument.place(), "got \"", name,
                    "\", expected float32, float16, bfloat16, int8 or int4");
}

namespace {

template <class T>
constexpr bool kIsFloat = std::is_same_v<T, float>;

// Throws where a caller's array is not what a span can be of.
template <class T, class View>
void require_span(Argument argument, const View& view, bool writable,
                  std::span<const std::int64_t> shape) {
  const auto num_axes = static_cast<std::size_t>(view.ndim);
  if (!std::ranges::equal(std::span(view.shape).first(num_axes), shape)) {
    raise<ValueError>(argument.place(), "got shape ", shape_text(view), ", expected ",
                      shape_text(contiguous_view(nullptr, DType::float32, shape)));
  }
  const bool is_empty = std::ranges::count(shape, 0) > 0;  // its strides mean nothing
  std::int64_t step = sizeof(T);
  for (int axis = view.ndim - 1; axis >= 0; step *= view.shape[axis--]) {
    if (is_empty || view.shape[axis] == 1 || view.strides[axis] == step) continue;
    raise<ValueError>(argument.place(), "got a stride of ", view.strides[axis], " bytes in axis ",
                      axis, ", expected ", step, ", a contiguous array");
  }
  if (!writable) {
    raise<ValueError>(argument.place(), "got a read-only array, expected a writable one");
  }
}

}  // namespace

template <class T>
OutNumbers<T>::OutNumbers(Argument argument, py::handle out, py::handle given,
                          std::span<const std::int64_t> shape) {
  for (const std::int64_t length : shape) size_ *= static_cast<std::size_t>(length);
  if (out.is_none()) {
    if constexpr (kIsFloat<T>) {
      made_ = ResultArray(given, DType::float32, shape);
      data_ = reinterpret_cast<float*>(made_.view().data);
    } else {
      given_ = py::reinterpret_borrow<py::object>(given);
      owner_ = new_index_array({shape.begin(), shape.end()}, &data_);
    }
    return;
  }
  if constexpr (kIsFloat<T>) {
    const auto [view, owner] = to_float_array(argument, out);
    if (view.dtype != DType::float32) {
      raise<TypeError>(argument.place(), "got ", name_of(view.dtype), ", expected float32");
    }
    require_span<T>(argument, view, view.writable, shape);
    data_ = reinterpret_cast<T*>(view.data);
    owner_ = owner;
  } else {
    const auto [view, owner, writable] = to_index_array(argument, out);
    if (view.type != (sizeof(T) == 4 ? IndexType::int32 : IndexType::int64)) {
      raise<TypeError>(argument.place(),
                       sizeof(T) == 4 ? "got int64, expected int32" : "got int32, expected int64");
    }
    require_span<T>(argument, view, writable, shape);
    data_ = reinterpret_cast<T*>(const_cast<std::byte*>(view.data));
    owner_ = owner;
  }
  out_ = py::reinterpret_borrow<py::object>(out);
}

template <class T>
py::object OutNumbers<T>::take() {
  if (out_) return std::move(out_);
  return made_ ? made_.take() : indices_for(given_, std::move(owner_));
}

template class OutNumbers<float>;
template class OutNumbers<std::int32_t>;
template class OutNumbers<std::int64_t>;

}  // namespace quire::python
