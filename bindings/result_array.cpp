#include "result_array.h"

#include <utility>

#include "numpy_view.h"

namespace quire::python {

namespace py = pybind11;

namespace {

AlignedFloats room_for(DType dtype, std::span<const std::int64_t> shape) {
  const std::int64_t bytes = bytes_of(dtype, shape);
  constexpr std::int64_t kFloat = sizeof(float);
  return aligned_floats(bytes / kFloat + (bytes % kFloat != 0));
}

}  // namespace

ResultArray::ResultArray(py::handle given, DType dtype, std::span<const std::int64_t> shape) {
  if (!is_ndarray(given)) library_ = library_of(given);
  if (!library_.makes_arrays()) {
    array_ = new_float_array(dtype, shape, &shared_.view);
    return;
  }
  if (library_.makes != nullptr) {
    tensor_ = new_tensor(dtype, shape, &shared_.view);
    return;
  }
  AlignedFloats memory = room_for(dtype, shape);
  shared_.view = contiguous_view(memory.get(), dtype, shape);
  shared_.memory = std::move(memory);
}

ResultArray::ResultArray(py::handle given, const ArrayView& view, AlignedFloats memory) {
  if (!is_ndarray(given)) library_ = library_of(given);
  if (library_.makes_arrays()) {
    shared_ = {view, std::move(memory)};
    return;
  }
  const py::capsule owner(memory.get(),
                          [](void* floats) { FreeFloats()(static_cast<float*>(floats)); });
  memory.release();
  array_ = array_over(view, owner);
}

py::object ResultArray::take() {
  if (array_) return std::move(array_);
  if (library_.makes == nullptr) return library_.from_dlpack(dlpack_producer(std::move(shared_)));
  if (!tensor_) tensor_ = new_tensor(std::move(shared_));
  void* object = nullptr;
  if (library_.makes->to_object(tensor_.release(), &object) != 0) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

}  // namespace quire::python
