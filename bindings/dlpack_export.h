// Memory of ours as tensors of DLPack, which other libraries make their arrays over. NumPy's own
// __dlpack__ does not know bfloat16 and float8.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "dlpack_abi.h"
#include "quire/base/array_view.h"

namespace quire::python {

// A view, and what keeps its memory alive for everybody who has a tensor of it.
struct SharedArray {
  ArrayView view;
  std::shared_ptr<void> memory;
  // Where elements are whole numbers: of that type, and the view's dtype means nothing.
  std::optional<IndexType> integers = std::nullopt;
};

// What keeps an object of Python alive; the last one to let go may be a thread without the GIL.
std::shared_ptr<void> shared_object(pybind11::object object);

// A tensor whose deleter is called unless somebody takes it, who calls it then.
using OwnedTensor = std::unique_ptr<dlpack::Versioned, void (*)(dlpack::Versioned*)>;

// A new tensor of the array. Of int4 uint8.
OwnedTensor new_tensor(const SharedArray& array);

// One of new uninitialised memory, on a cache line's boundary and in one piece with the tensor: a
// small result costs one allocation. `view` becomes one of it. Throws bad_alloc.
OwnedTensor new_tensor(DType dtype, std::span<const std::int64_t> shape, ArrayView* view);

// Of an array without gaps. Throws bad_alloc where that is no number.
std::int64_t bytes_of(DType dtype, std::span<const std::int64_t> shape);

// An object with __dlpack__, for functions called from_dlpack.
pybind11::object dlpack_producer(SharedArray array);

// Adds the class of such objects to the module, and dlpack_of(array), which makes one.
void bind_dlpack_export(pybind11::module_& m);

}  // namespace quire::python
