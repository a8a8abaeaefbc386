#include "quire/io/file_planes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quire/base/check.h"
#include "quire/base/float_mode.h"
#include "quire/format/cache_format.h"
#include "quire/format/int4_grid.h"

namespace quire {
namespace {

using Numbers = FilePlane::Numbers;

constexpr BFloat16 kLargestBFloat16 = {0x7f7f};

template <class T>
T item_at(std::span<const std::byte> bytes, std::int64_t i) {  // at any address
  T item;
  std::memcpy(&item, bytes.data() + i * static_cast<std::int64_t>(sizeof item), sizeof item);
  return item;
}

// The index of the first T for which holds(T) is not so; -1 where there is none.
template <class T, class Holds>
std::int64_t first_wrong(std::span<const std::byte> bytes, Holds holds) {
  const auto count = static_cast<std::int64_t>(bytes.size() / sizeof(T));
  for (std::int64_t i = 0; i < count; ++i) {
    if (!holds(item_at<T>(bytes, i))) return i;
  }
  return -1;
}

// By their bits: all that is finite comes before the infinity, and 0 before the rest.
bool is_grid(Int4Grid grid) {
  constexpr std::uint16_t infinity = 0x7c00;
  return grid.step.bits > 0 && grid.step.bits < infinity && (grid.middle.bits & 0x7fffu) < infinity;
}

// Not so of a NaN.
template <class T>
bool is_within(T number, T largest) {
  return std::abs(to_float(number)) <= to_float(largest);
}
template <class F>
  requires requires { F::kMantissaBits; }
bool is_within(F number, F largest) {  // float8s, which take longer to become floats
  return (number.bits & 0x7f) <= largest.bits;
}

// "[3, 0, 5]": the place of item i of a row-major array, whose first axis needs no length.
std::string place_text(std::int64_t i, std::span<const std::int64_t> lengths) {
  std::string text = "]";
  for (auto length = lengths.rbegin(); length != lengths.rend(); ++length) {
    text = concat(", ", i % *length, text);
    i /= *length;
  }
  return concat("[", i, text);
}

// One for each row.
FilePlane plain(std::string_view name, const ArrayView& view, Numbers numbers = Numbers::any,
                float largest = 0.0f) {
  return {name, view, numbers, {view.shape[3]}, largest};
}

// Of int8 and float8, with their scales: what they stand for is a finite number when it is opened.
FilePlane opened_later(const KvPlane& plane, DType dtype) {
  const float most = largest_of(dtype);
  return plane.view.dtype == dtype
             ? plain(plane.name, plane.view, Numbers::bounded, most)
             : plain(plane.name, plane.view, Numbers::scales, to_float(kLargestBFloat16) / most);
}

FilePlane grids_of_channels(std::string_view name, const ArrayView& grids) {
  ArrayView view = grids;
  view.shape = {grids.shape[0], 1, grids.shape[1], 2 * grids.shape[2]};
  view.strides = {grids.strides[0], 0, grids.strides[1], grids.strides[3]};
  return {name, view, Numbers::grids, {grids.shape[2], 2}};
}

}  // namespace

std::string FilePlane::flaw(std::span<const std::byte> rows, std::int64_t first) const {
  const DefaultFloatMode mode;
  std::vector<std::int64_t> lengths = {view.shape[2]};
  lengths.insert(lengths.end(), row_shape.begin(), row_shape.end());
  const std::int64_t before = first * view.shape[2] * view.shape[3];
  if (numbers == Numbers::grids) {
    const std::int64_t wrong = first_wrong<Int4Grid>(rows, is_grid);
    if (wrong < 0) return "";
    const auto grid = item_at<Int4Grid>(rows, wrong);
    lengths.pop_back();
    return concat("a step of ", to_float(grid.step), " and a middle of ", to_float(grid.middle),
                  " at ", place_text(before / 2 + wrong, lengths),
                  ", expected both finite, and the step positive");
  }
  if (numbers == Numbers::scales) {
    const float most = largest;
    const std::int64_t wrong =
        first_wrong<float>(rows, [most](float scale) { return scale > 0.0f && scale <= most; });
    if (wrong < 0) return "";
    return concat("a scale of ", item_at<float>(rows, wrong), " at ",
                  place_text(before + wrong, lengths), ", expected a positive number, at most ",
                  largest);
  }
  if (numbers == Numbers::bounded) {
    return visit_cache_dtype(view.dtype, [&](auto type) -> std::string {
      using T = decltype(type);
      const T most = from_float<T>(largest);
      const std::int64_t wrong =
          first_wrong<T>(rows, [most](T number) { return is_within(number, most); });
      if (wrong < 0) return "";
      return concat("a number of ", to_float(item_at<T>(rows, wrong)), " at ",
                    place_text(before + wrong, lengths), ", expected at most ", to_float(most),
                    " in magnitude");
    });
  }
  return "";
}

std::vector<FilePlane> file_planes(const BlockPool& pool, RowsOf kind, std::int64_t layer) {
  if (kind == RowsOf::open_blocks) {
    // At most what the largest that can be sealed is rounded to.
    const float largest =
        std::min(format_of(pool.geometry().dtype).largest, to_float(kLargestBFloat16));
    std::vector<FilePlane> planes;
    for (const KvPlane& plane : pool.open_blocks().planes(layer)) {
      planes.push_back(plain(plane.name, plane.view, Numbers::bounded, largest));
    }
    return planes;
  }
  const KvStorage& storage = pool.storage();
  if (format_of(storage.geometry().dtype).scales == ScaleKind::grids) {
    return {plain("k", storage.k_cache(layer)), plain("v", storage.v_cache(layer)),
            grids_of_channels("k_scale", storage.k_scale(layer)),
            plain("v_scale", storage.v_scale(layer), Numbers::grids)};
  }
  std::vector<FilePlane> planes;
  for (const KvPlane& plane : storage.planes(layer)) {
    planes.push_back(storage.geometry().opens_blocks()
                         ? opened_later(plane, storage.geometry().dtype)
                         : plain(plane.name, plane.view));
  }
  return planes;
}

}  // namespace quire
