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

namespace {

py::object object_of(const ArrayLibrary& library, OwnedTensor tensor) {
  void* object = nullptr;
  if (library.makes->to_object(tensor.release(), &object) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

py::object made_by(const ArrayLibrary& library, SharedArray shared) {
  if (library.makes == nullptr) return library.from_dlpack(dlpack_producer(std::move(shared)));
  return object_of(library, new_tensor(shared));
}

}  // namespace

py::object ResultArray::take() {
  if (array_) return std::move(array_);
  if (tensor_) return object_of(library_, std::move(tensor_));
  return made_by(library_, std::move(shared_));
}

py::object indices_for(py::handle given, py::object array) {
  ArrayLibrary library;
  if (!is_ndarray(given)) library = library_of(given);
  if (!library.makes_arrays()) return array;
  const IndexView indices = to_index_array({"indices_for", "array"}, array).view;
  SharedArray shared;
  shared.view.data = const_cast<std::byte*>(indices.data);
  shared.view.ndim = indices.ndim;
  for (int axis = 0; axis < indices.ndim; ++axis) {
    shared.view.shape[axis] = indices.shape[axis];
    shared.view.strides[axis] = indices.strides[axis];
  }
  shared.integers = indices.type;
  shared.memory = shared_object(std::move(array));
  return made_by(library, std::move(shared));
}

}  // namespace quire::python
