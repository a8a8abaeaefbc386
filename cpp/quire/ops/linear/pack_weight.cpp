#include "quire/ops/linear/pack_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "quire/base/float_mode.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/argument_checker.h"
#include "quire/ops/linear/affine_numbers.h"

namespace quire {
namespace {

// Elements that one thread packs in about 50 us.
constexpr std::int64_t kWorkOfOne = 1 << 16;

template <class T>
const T* row_of(const ArrayView& w, std::int64_t row) {
  return reinterpret_cast<const T*>(w.at(row));
}

// Calls visitor(row of w, its column in the panel) for the rows that a panel has.
template <class Visitor>
void for_rows(const PackedLayout& layout, std::int64_t panel, const Visitor& visitor) {
  const std::int64_t first = panel * kPanelColumns;
  const std::int64_t count = std::min(kPanelColumns, layout.num_rows - first);
  for (std::int64_t column = 0; column < count; ++column) visitor(first + column, column);
}

template <class To, class From>
To converted(From number) {
  if constexpr (std::is_same_v<To, From>) return number;
  return from_float<To>(to_float(number));
}

// Along K in w, which is how w lies in memory; a block of the panel is written again and again
// while it is in the first-level cache.
template <class To, class From>
void pack_floats(const ArrayView& w, const PackedLayout& layout, std::int64_t panel,
                 std::byte* packed) {
  for (std::int64_t k0 = 0; k0 < layout.num_columns; k0 += kBlockDepth) {
    const std::int64_t end = std::min(layout.num_columns, k0 + kBlockDepth);
    for_rows(layout, panel, [&](std::int64_t row, std::int64_t column) {
      const From* const from = row_of<From>(w, row);
      auto* const start = reinterpret_cast<To*>(packed + layout.offset(column, k0));
      // steps from a number of K to the next, and over a pair, in elements
      constexpr bool kPairs = std::is_same_v<To, BFloat16>;
      constexpr std::int64_t kStep = kPairs ? 1 : kHalfColumns;
      constexpr std::int64_t kPairStep = 2 * kHalfColumns;
      for (std::int64_t k = k0; k < end; ++k) {
        start[(k - k0) / 2 * kPairStep + k % 2 * kStep] = converted<To>(from[k]);
      }
    });
  }
}

// The places of numbers that are not finite are said once one has been found.
template <class T>
void require_finite(const ArgumentChecker& check, const ArrayView& w, std::int64_t row,
                    std::string_view format) {
  const T* const numbers = row_of<T>(w, row);
  for (std::int64_t k = 0; k < w.shape[1]; ++k) {
    const float number = to_float(numbers[k]);
    if (std::isfinite(number)) continue;
    check.fail<ValueError>("w", "got ", number, " at [", row, ", ", k,
                           "], expected finite numbers, as ", format, " has no others");
  }
}

template <class T>
void pack_int8(const ArrayView& w, Weight& weight, std::int64_t panel) {
  const PackedLayout& layout = weight.layout();
  for_rows(layout, panel, [&](std::int64_t row, std::int64_t column) {
    const T* const numbers = row_of<T>(w, row);
    float largest = 0;
    for (std::int64_t k = 0; k < layout.num_columns; ++k) {
      largest = std::max(largest, std::fabs(to_float(numbers[k])));
    }
    const float scale = largest / 127;
    weight.scales()[row] = scale;
    for (std::int64_t k = 0; k < layout.num_columns; ++k) {
      auto* const to = reinterpret_cast<Int8*>(weight.panel(panel) + layout.offset(column, k));
      // at most 127 in magnitude, also where the scale has lost bits by being subnormal
      *to = from_float<Int8>(scale == 0 ? 0.0f : to_float(numbers[k]) / scale);
    }
  });
}

template <class T>
void pack_int4(const ArrayView& w, Weight& weight, std::int64_t panel) {
  const PackedLayout& layout = weight.layout();
  for_rows(layout, panel, [&](std::int64_t row, std::int64_t column) {
    const T* const numbers = row_of<T>(w, row);
    for (std::int64_t k0 = 0; k0 < layout.num_columns; k0 += layout.group_size) {
      float group[128];
      const std::int64_t count = std::min(layout.group_size, layout.num_columns - k0);
      for (std::int64_t i = 0; i < count; ++i) group[i] = to_float(numbers[k0 + i]);
      const AffineGrid grid = affine_grid(group, count);
      for (std::int64_t i = 0; i < count; ++i) {
        std::byte* const to = weight.panel(panel) + layout.offset(column, k0 + i);
        std::uint32_t bits;
        std::memcpy(&bits, to, sizeof bits);
        bits |= grid.number(group[i]) << PackedLayout::shift(i);
        std::memcpy(to, &bits, sizeof bits);
      }
      const float stored[2] = {to_float(from_float<T>(grid.scale)),
                               to_float(from_float<T>(grid.offset))};
      std::byte* const scales = weight.panel(panel) + layout.scales_offset(k0);
      for (int i = 0; i < 2; ++i) {
        std::memcpy(scales + (i * kPanelColumns + column) * 4, &stored[i], sizeof stored[i]);
      }
    }
  });
}

PackedLayout layout_of(const ArgumentChecker& check, const ArrayView& w,
                       const WeightOptions& options) {
  check.array("w", w, {std::nullopt, std::nullopt}, "N, K");
  check.plain_floats("w", w);
  if (options.format == DType::float8_e4m3fn || options.format == DType::float8_e5m2) {
    check.fail<ValueError>("format", "got \"", name_of(options.format),
                           "\", expected float32, float16, bfloat16, int8 or int4");
  }
  PackedLayout layout{options.format, w.shape[0], w.shape[1], 0};
  if (options.format == DType::int4) {
    layout.group_size = options.group_size.value_or(64);
    if (layout.group_size != 32 && layout.group_size != 64 && layout.group_size != 128) {
      check.fail<ValueError>("group_size", "got ", layout.group_size, ", expected 32, 64 or 128");
    }
  } else if (options.group_size) {
    check.fail<ValueError>("group_size", "got ", *options.group_size, " with format ",
                           name_of(options.format), ", expected None, as only int4 has groups");
  }
  return layout;
}

}  // namespace

void pack_panel(const ArrayView& w, const PackedLayout& layout, std::int64_t panel,
                std::byte* packed) {
  std::memset(packed, 0, static_cast<std::size_t>(layout.panel_bytes()));
  visit_dtype(w.dtype, [&](auto from) {
    visit_dtype(layout.format, [&](auto to) {
      pack_floats<decltype(to), decltype(from)>(w, layout, panel, packed);
    });
  });
}

std::shared_ptr<const Weight> pack_weight(const ArrayView& w, const WeightOptions& options,
                                          int num_threads, std::string_view function) {
  const DefaultFloatMode mode;
  const ArgumentChecker check(function);
  const PackedLayout layout = layout_of(check, w, options);
  const auto weight = std::make_shared<Weight>(layout);
  const Crew crew =
      crew_for(layout.num_rows * layout.num_columns, kWorkOfOne, layout.panels(), num_threads);
  deal(crew, layout.panels(), [&](std::int64_t panel, int) {
    if (!is_quantised(layout.format)) {
      return pack_panel(w, layout, panel, weight->panel(panel));
    }
    visit_dtype(w.dtype, [&](auto type) {
      using T = decltype(type);
      for_rows(layout, panel, [&](std::int64_t row, std::int64_t) {
        require_finite<T>(check, w, row, name_of(layout.format));
      });
      layout.format == DType::int8 ? pack_int8<T>(w, *weight, panel)
                                   : pack_int4<T>(w, *weight, panel);
    });
  });
  return weight;
}

}  // namespace quire
