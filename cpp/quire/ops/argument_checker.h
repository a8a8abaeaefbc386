// What the checks of every operation's arguments have in common: shapes, strides, overlaps, and how
// what is wrong with them is said.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "quire/base/array_view.h"
#include "quire/base/check.h"
#include "quire/base/dtype.h"

namespace quire {

// An expected length of an axis; none: any length >= 1.
using Length = std::optional<std::int64_t>;

// Those of all axes, written as a list or held in an array.
class Lengths : public std::span<const Length> {
 public:
  Lengths(std::initializer_list<Length> lengths) : span(lengths.begin(), lengths.size()) {}
  Lengths(std::span<const Length> lengths) : span(lengths) {}
};

// The bytes from the first to the last entry.
inline ByteRange range_of(const ArrayView& view) { return byte_range(view); }
inline ByteRange range_of(const IndexView& view) {
  const auto first = reinterpret_cast<std::uintptr_t>(view.data);
  ByteRange range{first, first + (view.type == IndexType::int32 ? 4 : 8)};
  for (int axis = 0; axis < view.ndim; ++axis) {
    if (view.shape[axis] == 0) return {};
    const std::int64_t span = (view.shape[axis] - 1) * view.strides[axis];
    (span < 0 ? range.begin : range.end) += static_cast<std::uintptr_t>(span);
  }
  return range;
}

// Checks the arguments of one call of `function`.
class ArgumentChecker {
 public:
  explicit ArgumentChecker(std::string_view function) : function_(function) {}

  template <class E, class... Parts>
  [[noreturn]] void fail(std::string_view argument, const Parts&... parts) const {
    raise<E>(place(function_, argument), parts...);
  }

  // Shape as `lengths` say, described as `spelled`; last axis contiguous, every element aligned.
  void array(std::string_view argument, const ArrayView& view, Lengths lengths,
             std::string_view spelled) const {
    strided_array(argument, view, lengths, spelled);
    const auto item = static_cast<std::int64_t>(size_of(view.dtype));
    const int last = view.ndim - 1;
    if (!is_empty(view) && view.shape[last] > 1 && view.strides[last] != item) {
      fail<ValueError>(argument, "got a last axis of stride ", counted(view.strides[last], "byte"),
                       ", expected a contiguous one (", counted(item, "byte"), ")");
    }
  }

  // The same with any strides.
  void strided_array(std::string_view argument, const ArrayView& view, Lengths lengths,
                     std::string_view spelled) const {
    shape(argument, view, lengths, spelled);
    if (is_empty(view)) return;  // its strides mean nothing
    const auto item = static_cast<std::int64_t>(size_of(view.dtype));
    bool aligned =
        reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::size_t>(item) == 0;
    for (int axis = 0; axis < view.ndim; ++axis) {
      aligned = aligned && (view.shape[axis] <= 1 || view.strides[axis] % item == 0);
    }
    if (!aligned) {
      fail<ValueError>(argument, "got elements off their alignment, expected multiples of ", item,
                       " bytes");
    }
  }

  // Queries, outputs, and new keys and values.
  void plain_floats(std::string_view argument, const ArrayView& view) const {
    if (!is_quantised(view.dtype)) return;
    fail<TypeError>(argument, "got ", name_of(view.dtype),
                    ", expected float32, float16 or bfloat16");
  }

  template <class View>
  void shape(std::string_view argument, const View& view, Lengths lengths,
             std::string_view spelled) const {
    bool good = view.ndim == static_cast<int>(lengths.size());
    int axis = 0;
    for (const Length& length : lengths) {
      if (!good) break;
      good = length ? view.shape[axis] == *length : view.shape[axis] >= 1;
      ++axis;
    }
    if (good) return;
    std::string expected;
    for (const Length& length : lengths) {
      expected += concat(expected.empty() ? "" : ", ", length ? std::to_string(*length) : ">= 1");
    }
    fail<ValueError>(argument, "got shape ", shape_text(view), ", expected [", expected, "] (",
                     spelled, ")");
  }

  void written(std::string_view argument, const ArrayView& view) const {
    if (!view.writable) {
      fail<ValueError>(argument, "got a read-only array, expected a writable one");
    }
    if (may_self_overlap(view)) {
      fail<ValueError>(argument, "got strides that reach an element twice, expected distinct ones");
    }
  }

  // A span of so many entries.
  void as_many(std::string_view argument, std::size_t entries, std::int64_t expected,
               std::string_view spelled) const {
    if (static_cast<std::int64_t>(entries) == expected) return;
    fail<ValueError>(argument, "got ", entries, " entries, expected ", expected, ", ", spelled);
  }

  // What is written must not change what has been checked, or is still to be read.
  template <class View, class Other>
  void apart(std::string_view argument, const View& view, std::string_view other_argument,
             const Other& other) const {
    if (range_of(view).overlaps(range_of(other))) {
      fail<ValueError>(argument, "got memory that overlaps ", other_argument,
                       "'s, expected memory apart from it");
    }
  }

  // A float per head, none of them NaN or +inf.
  void per_head(std::string_view argument, const ArrayView& view, std::int64_t num_heads,
                bool minus_infinity) const {
    array(argument, view, {num_heads}, "a value per query head");
    plain_floats(argument, view);
    for (std::int64_t head = 0; head < num_heads; ++head) {
      const float value = visit_dtype(view.dtype, [&](auto type) {
        return to_float(reinterpret_cast<const decltype(type)*>(view.data)[head]);
      });
      if (std::isfinite(value) || (minus_infinity && value == -INFINITY)) continue;
      fail<ValueError>(argument, "got ", value, " at head ", head, ", expected a finite number",
                       minus_infinity ? " or -inf" : "");
    }
  }

 private:
  std::string_view function_;
};

}  // namespace quire
