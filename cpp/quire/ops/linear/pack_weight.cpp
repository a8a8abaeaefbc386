#include "quire/ops/linear/pack_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "quire/base/float_mode.h"
#include "quire/ops/argument_checker.h"
#include "quire/ops/linear/affine_numbers.h"
#include "quire/ops/linear/packed_weight.h"

namespace quire {
namespace {

template <class T>
const T* row_of(const ArrayView& w, std::int64_t row) {
  return reinterpret_cast<const T*>(w.at(row));
}

// The rows of w that are a panel's: 32, or fewer in the last one. The row r of them is the panel's
// column r.
ArrayView rows_of_panel(const ArrayView& w, std::int64_t panel) {
  ArrayView rows = w;
  const std::int64_t first = panel * kPanelColumns;
  rows.data = w.at(first);
  rows.shape[0] = std::min(kPanelColumns, w.shape[0] - first);
  return rows;
}

template <class To, class From>
To converted(From number) {
  if constexpr (std::is_same_v<To, From>) return number;
  return from_float<To>(to_float(number));
}

// Along K in w, which is how w lies in memory; a block of the panel is written again and again
// while it is in the first-level cache.
template <class To, class From>
void pack_floats(const ArrayView& rows, const PackedLayout& layout, std::byte* packed) {
  for (std::int64_t k0 = 0; k0 < layout.num_columns; k0 += kBlockDepth) {
    const std::int64_t end = std::min(layout.num_columns, k0 + kBlockDepth);
    for (std::int64_t row = 0; row < rows.shape[0]; ++row) {
      const From* const from = row_of<From>(rows, row);
      auto* const start = reinterpret_cast<To*>(packed + layout.offset(row, k0));
      // steps from a number of K to the next, and over a pair, in elements
      constexpr bool kPairs = std::is_same_v<To, BFloat16>;
      constexpr std::int64_t kStep = kPairs ? 1 : kHalfColumns;
      constexpr std::int64_t kPairStep = 2 * kHalfColumns;
      for (std::int64_t k = k0; k < end; ++k) {
        start[(k - k0) / 2 * kPairStep + k % 2 * kStep] = converted<To>(from[k]);
      }
    }
  }
}

void pack_plain(const ArrayView& rows, const PackedLayout& layout, std::byte* packed) {
  visit_dtype(rows.dtype, [&](auto from) {
    visit_dtype(layout.format,
                [&](auto to) { pack_floats<decltype(to), decltype(from)>(rows, layout, packed); });
  });
}

// Packs the rows of one panel of a weight, and says which of w's numbers it cannot pack.
class PanelPacker {
 public:
  PanelPacker(const ArgumentChecker& check, Weight& weight) : check_(check), weight_(weight) {}

  void pack(const ArrayView& rows, std::int64_t panel) const {
    if (!is_quantised(weight_.format())) {
      return pack_plain(rows, weight_.layout(), weight_.panel(panel));
    }
    visit_dtype(rows.dtype, [&](auto type) {
      using T = decltype(type);
      for (std::int64_t row = 0; row < rows.shape[0]; ++row) {
        require_finite(row_of<T>(rows, row), panel * kPanelColumns + row);
        weight_.format() == DType::int8 ? pack_int8(row_of<T>(rows, row), panel, row)
                                        : pack_int4(row_of<T>(rows, row), panel, row);
      }
    });
  }

 private:
  template <class T>
  void require_finite(const T* numbers, std::int64_t row) const {
    for (std::int64_t k = 0; k < weight_.num_columns(); ++k) {
      const float number = to_float(numbers[k]);
      if (std::isfinite(number)) continue;
      check_.fail<ValueError>("w", "got ", number, " at [", row, ", ", k,
                              "], expected finite numbers, as ", name_of(weight_.format()),
                              " has no others");
    }
  }

  template <class T>
  void pack_int8(const T* numbers, std::int64_t panel, std::int64_t column) const {
    const PackedLayout& layout = weight_.layout();
    float largest = 0;
    for (std::int64_t k = 0; k < layout.num_columns; ++k) {
      largest = std::max(largest, std::fabs(to_float(numbers[k])));
    }
    const float scale = largest / 127;
    weight_.scales()[panel * kPanelColumns + column] = scale;
    for (std::int64_t k0 = 0; k0 < layout.num_columns; k0 += kBlockDepth) {
      const std::int64_t end = std::min(layout.num_columns, k0 + kBlockDepth);
      auto* to = reinterpret_cast<Int8*>(weight_.panel(panel) + layout.offset(column, k0));
      for (std::int64_t k = k0; k < end; ++k, to += kHalfColumns) {
        // at most 127 in magnitude, also where the scale has lost bits by being subnormal
        *to = from_float<Int8>(scale == 0 ? 0.0f : to_float(numbers[k]) / scale);
      }
    }
  }

  template <class T>
  void pack_int4(const T* numbers, std::int64_t panel, std::int64_t column) const {
    const PackedLayout& layout = weight_.layout();
    for (std::int64_t k0 = 0; k0 < layout.num_columns; k0 += layout.group_size) {
      float group[128];
      const std::int64_t count = std::min(layout.group_size, layout.num_columns - k0);
      for (std::int64_t i = 0; i < count; ++i) group[i] = to_float(numbers[k0 + i]);
      const AffineGrid grid = affine_grid(group, count);
      for (std::int64_t i = 0; i < count; i += 8) {
        std::int8_t eight[8];
        const std::int64_t some = std::min<std::int64_t>(8, count - i);
        for (std::int64_t j = 0; j < some; ++j) {
          eight[j] = static_cast<std::int8_t>(grid.number(group[i + j]));
        }
        weight_.set_int4(panel, column, k0 + i, {eight, static_cast<std::size_t>(some)});
      }
      weight_.set_grid(panel, column, k0, to_float(from_float<T>(grid.scale)),
                       to_float(from_float<T>(grid.offset)));
    }
  }

  const ArgumentChecker& check_;
  Weight& weight_;
};

PackedLayout layout_of(const ArgumentChecker& check, std::int64_t num_rows,
                       std::int64_t num_columns, const WeightOptions& options) {
  if (options.format == DType::float8_e4m3fn || options.format == DType::float8_e5m2) {
    check.fail<ValueError>("format", "got \"", name_of(options.format),
                           "\", expected float32, float16, bfloat16, int8 or int4");
  }
  PackedLayout layout{options.format, num_rows, num_columns, 0};
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
  pack_plain(rows_of_panel(w, panel), layout, packed);
}

std::shared_ptr<const Weight> pack_weight(const ArrayView& w, const WeightOptions& options,
                                          int num_threads, std::string_view function) {
  const DefaultFloatMode mode;
  const ArgumentChecker check(function);
  check.array("w", w, {std::nullopt, std::nullopt}, "N, K");
  check.plain_floats("w", w);
  const PackedLayout layout = layout_of(check, w.shape[0], w.shape[1], options);
  return packed_weight(layout, num_threads, [&](Weight& weight, std::int64_t panel, int) {
    PanelPacker(check, weight).pack(rows_of_panel(w, panel), panel);
  });
}

std::shared_ptr<const Weight> pack_weight(const FloatRows& source, const WeightOptions& options,
                                          int num_threads, std::string_view function) {
  const DefaultFloatMode mode;
  const ArgumentChecker check(function);
  check_source(check, source.num_rows, source.num_columns);
  const PackedLayout layout = layout_of(check, source.num_rows, source.num_columns, options);
  std::vector<std::vector<float>> rows_of_each(static_cast<std::size_t>(std::max(num_threads, 1)));
  return packed_weight(layout, num_threads, [&](Weight& weight, std::int64_t panel, int worker) {
    std::vector<float>& rows = rows_of_each[static_cast<std::size_t>(worker)];
    const std::int64_t first = panel * kPanelColumns;
    const std::int64_t count = std::min(kPanelColumns, layout.num_rows - first);
    rows.resize(static_cast<std::size_t>(kPanelColumns * layout.num_columns));
    source.read(first, first + count, rows.data());
    PanelPacker(check, weight).pack(view_of(rows, {count, layout.num_columns}), panel);
  });
}

}  // namespace quire
