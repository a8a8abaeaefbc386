// Tensors that come through __dlpack__: PyTorch's, JAX's and others', bfloat16 among them, which
// NumPy itself does not take that way.
#pragma once

#include <pybind11/pybind11.h>

#include "arguments.h"
#include "quire/base/array_view.h"

namespace quire::python {

bool has_dlpack(pybind11::handle object);

// A tensor borrowed from its capsule, which owner() keeps alive: the capsule stays ours alone,
// under its own name, so that its destructor calls the tensor's deleter. Source of the layout: the
// DLPack specification, versions 0.8 and 1.0.
class DlpackView {
 public:
  // Throws TypeError for a tensor on another device, ValueError for too many axes.
  DlpackView(Argument argument, pybind11::handle object);

  // Throw TypeError for another dtype; `quantised`: those of a cache are taken as well.
  ArrayView float_view(bool quantised, const char* expected) const;
  IndexView index_view() const;

  const pybind11::object& owner() const { return capsule_; }

 private:
  struct Tensor;

  Argument argument_;
  pybind11::object capsule_;
  const Tensor* tensor_ = nullptr;
  bool writable_ = false;  // a capsule without a version cannot say, and JAX's may not be written
};

}  // namespace quire::python
