// Arrays that somebody else owns: a pointer, a shape and strides.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <type_traits>

#include "quire/base/dtype.h"

namespace quire {

inline constexpr int kMaxDims = 5;

// A strided array of floats. Strides are in bytes and may be zero or negative.
struct ArrayView {
  std::byte* data = nullptr;
  DType dtype = DType::float32;
  int ndim = 0;
  std::array<std::int64_t, kMaxDims> shape{};
  std::array<std::int64_t, kMaxDims> strides{};
  bool writable = true;

  // The element at the given leading indices; trailing ones count as 0.
  template <class... Index>
  std::byte* at(Index... index) const {
    std::int64_t offset = 0;
    int axis = 0;
    ((offset += static_cast<std::int64_t>(index) * strides[axis++]), ...);
    return data + offset;
  }
};

// Where there is one, else null.
inline const ArrayView* get_if(const std::optional<ArrayView>& view) {
  return view ? &*view : nullptr;
}

// A C-contiguous view of `data` with the given shape.
ArrayView contiguous_view(void* data, DType dtype, std::initializer_list<std::int64_t> shape,
                          bool writable = true);
ArrayView contiguous_view(void* data, DType dtype, std::span<const std::int64_t> shape,
                          bool writable = true);

// Throws ValueError where an array of this shape has more than so many elements, or a length below
// 0.
void require_room(std::size_t elements, std::initializer_list<std::int64_t> shape);

// A C-contiguous view of the floats in a vector, an array or another container that has as many as
// the shape asks for, or more. Throws ValueError where it has fewer.
template <class Floats>
ArrayView view_of(Floats&& floats, std::initializer_list<std::int64_t> shape) {
  using Element = std::remove_pointer_t<decltype(std::data(floats))>;
  using T = std::remove_const_t<Element>;
  require_room(std::size(floats), shape);
  return contiguous_view(const_cast<T*>(std::data(floats)), dtype_of<T>(), shape,
                         !std::is_const_v<Element>);
}

// Whether a view has no element.
bool is_empty(const ArrayView& view);

// The half-open range of bytes that the elements of a view occupy; empty when it has none.
struct ByteRange {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;

  bool overlaps(const ByteRange& other) const { return begin < other.end && other.begin < end; }
};
ByteRange byte_range(const ArrayView& view);

// True when two different indices can reach the same byte, judged by the strides alone: every axis
// longer than 1 must step over all that the smaller-stepping axes cover.
bool may_self_overlap(const ArrayView& view);

// "[2, 16, 8]", for messages.
std::string shape_text(const ArrayView& view);

enum class IndexType : std::uint8_t { int32, int64 };

// A strided array of int32 or int64 indices, of one or two axes. Strides are in bytes.
struct IndexView {
  const std::byte* data = nullptr;
  IndexType type = IndexType::int32;
  int ndim = 0;
  std::array<std::int64_t, 2> shape{};
  std::array<std::int64_t, 2> strides{};

  std::int64_t at(std::int64_t i) const { return load(data + i * strides[0]); }
  std::int64_t at(std::int64_t i, std::int64_t j) const {
    return load(data + i * strides[0] + j * strides[1]);
  }

 private:
  std::int64_t load(const std::byte* address) const {
    if (type == IndexType::int32) {
      return *reinterpret_cast<const std::int32_t*>(address);
    }
    return *reinterpret_cast<const std::int64_t*>(address);
  }
};

IndexView contiguous_index_view(const std::int32_t* data,
                                std::initializer_list<std::int64_t> shape);
IndexView contiguous_index_view(const std::int64_t* data,
                                std::initializer_list<std::int64_t> shape);

std::string shape_text(const IndexView& view);

}  // namespace quire
