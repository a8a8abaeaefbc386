// Tensors that come through __dlpack__: PyTorch's, JAX's and others', bfloat16 among them, which
// NumPy itself does not take that way.
#pragma once

#include <pybind11/pybind11.h>

#include "arguments.h"
#include "array_library.h"
#include "quire/base/array_view.h"

namespace quire::python {

bool has_dlpack(pybind11::handle object);

// Whether an object's library takes it apart without Python's code. Not what needs a gradient: that
// library's __dlpack__ refuses it, and says why.
bool can_be_opened(const ArrayLibrary& library, pybind11::handle object);

// A tensor borrowed from its capsule, which owner() keeps alive: the capsule stays ours alone,
// under its own name, so that its destructor calls the tensor's deleter.
class DlpackView {
 public:
  // By __dlpack__, or by the functions of a library that can open the object. Throws TypeError for
  // a tensor on another device.
  DlpackView(Argument argument, pybind11::handle object);
  DlpackView(Argument argument, const ArrayLibrary& library, pybind11::handle object);

  // Throw TypeError for another dtype, ValueError for too many axes; `quantised`: those of a cache
  // are taken as well.
  ArrayView float_view(bool quantised, const char* expected) const;
  IndexView index_view() const;
  struct Bools {
    const void* data;
    std::int64_t count, stride;  // in bytes
  };
  Bools bools() const;  // along one axis

  const pybind11::object& owner() const { return capsule_; }
  bool writable() const { return writable_; }

 private:
  void take_versioned();

  Argument argument_;
  pybind11::object capsule_;
  const dlpack::Tensor* tensor_ = nullptr;
  bool writable_ = false;  // a capsule without a version cannot say, and JAX's may not be written
};

}  // namespace quire::python
