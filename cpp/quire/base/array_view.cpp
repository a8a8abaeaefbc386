#include "quire/base/array_view.h"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <span>

#include "quire/base/check.h"

namespace quire {
namespace {

template <class View>
void set_contiguous(View& view, std::span<const std::int64_t> shape, std::int64_t item) {
  assert(shape.size() <= view.shape.size());
  view.ndim = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  for (int axis = view.ndim - 1; axis >= 0; --axis) {
    view.strides[axis] = item;
    item *= view.shape[axis];
  }
}

std::span<const std::int64_t> span_of(std::initializer_list<std::int64_t> shape) {
  return {shape.begin(), shape.size()};
}

template <class T>
IndexView index_view(const T* data, std::initializer_list<std::int64_t> shape) {
  IndexView view;
  view.data = reinterpret_cast<const std::byte*>(data);
  view.type = sizeof(T) == 4 ? IndexType::int32 : IndexType::int64;
  set_contiguous(view, span_of(shape), sizeof(T));
  return view;
}

std::string text_of(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    text += concat(axis ? ", " : "", shape[axis]);
  }
  return text + "]";
}

}  // namespace

ArrayView contiguous_view(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                          bool writable) {
  return contiguous_view(data, dtype, span_of(shape), writable);
}

ArrayView contiguous_view(void* data, DType dtype, std::span<const std::int64_t> shape,
                          bool writable) {
  ArrayView view;
  view.data = static_cast<std::byte*>(data);
  view.dtype = dtype;
  view.writable = writable;
  set_contiguous(view, shape, static_cast<std::int64_t>(size_of(dtype)));
  return view;
}

void require_room(std::size_t elements, std::initializer_list<std::int64_t> shape) {
  std::int64_t wanted = 1;
  bool fits = true;
  for (const std::int64_t length : shape) {
    fits = fits && length >= 0 && !__builtin_mul_overflow(wanted, length, &wanted);
  }
  if (fits && static_cast<std::uint64_t>(wanted) <= elements) return;
  std::string text;
  for (const std::int64_t length : shape) text += concat(text.empty() ? "" : ", ", length);
  raise<ValueError>("view_of: floats", "got ", elements, ", expected as many as [", text, "] has");
}

bool is_empty(const ArrayView& view) {
  for (int axis = 0; axis < view.ndim; ++axis) {
    if (view.shape[axis] == 0) return true;
  }
  return false;
}

ByteRange byte_range(const ArrayView& view) {
  if (is_empty(view)) return {};
  std::int64_t low = 0;
  std::int64_t high = static_cast<std::int64_t>(size_of(view.dtype));
  for (int axis = 0; axis < view.ndim; ++axis) {
    const std::int64_t span = (view.shape[axis] - 1) * view.strides[axis];
    (span < 0 ? low : high) += span;
  }
  const auto base = reinterpret_cast<std::uintptr_t>(view.data);
  return {base + static_cast<std::uintptr_t>(low), base + static_cast<std::uintptr_t>(high)};
}

bool may_self_overlap(const ArrayView& view) {
  if (is_empty(view)) return false;
  struct Axis {
    std::int64_t stride, length;
  };
  std::array<Axis, kMaxDims> axes{};
  int count = 0;
  for (int axis = 0; axis < view.ndim; ++axis) {
    if (view.shape[axis] == 1) continue;
    int place = count++;  // the axes stay sorted by stride
    const Axis next{std::abs(view.strides[axis]), view.shape[axis]};
    for (; place > 0 && axes[place - 1].stride > next.stride; --place)
      axes[place] = axes[place - 1];
    axes[place] = next;
  }
  std::int64_t covered = static_cast<std::int64_t>(size_of(view.dtype));
  for (int i = 0; i < count; ++i) {
    if (axes[i].stride < covered) return true;
    covered += (axes[i].length - 1) * axes[i].stride;
  }
  return false;
}

std::string shape_text(const ArrayView& view) {
  return text_of({view.shape.data(), static_cast<std::size_t>(view.ndim)});
}

std::string shape_text(const IndexView& view) {
  return text_of({view.shape.data(), static_cast<std::size_t>(view.ndim)});
}

IndexView contiguous_index_view(const std::int32_t* data,
                                std::initializer_list<std::int64_t> shape) {
  return index_view(data, shape);
}

IndexView contiguous_index_view(const std::int64_t* data,
                                std::initializer_list<std::int64_t> shape) {
  return index_view(data, shape);
}

}  // namespace quire
