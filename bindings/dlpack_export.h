// Memory of ours as tensors of DLPack, which other libraries make their arrays over. NumPy's own
// __dlpack__ does not know bfloat16 and float8.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>

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

// A new tensor of the array, for who calls its deleter. Of int4 uint8.
std::unique_ptr<dlpack::Versioned, void (*)(dlpack::Versioned*)> new_tensor(
    const SharedArray& array);

// An object with __dlpack__, for functions called from_dlpack.
pybind11::object dlpack_producer(SharedArray array);

// Adds the class of such objects to the module, and dlpack_of(array), which makes one.
void bind_dlpack_export(pybind11::module_& m);

}  // namespace quire::python
