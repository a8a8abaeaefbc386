#include "quire/ops/linear/pack_affine.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "quire/ops/argument_checker.h"
#include "quire/ops/linear/packed_weight.h"

namespace quire {
namespace {

// What a panel's rows of affine numbers are read into.
struct AffinePanel {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales, offsets;
};

void pack_affine_panel(const ArgumentChecker& check, const AffinePanel& from, Weight& weight,
                       std::int64_t panel) {
  const PackedLayout& layout = weight.layout();
  const std::int64_t first = panel * kPanelColumns;
  const std::int64_t rows = std::min(kPanelColumns, layout.num_rows - first);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::span codes(from.codes.data() + row * layout.num_columns,
                          static_cast<std::size_t>(layout.num_columns));
    for (std::int64_t k = 0; k < layout.num_columns; k += 8) {
      const auto eight = codes.subspan(static_cast<std::size_t>(k), 8);
      const auto wrong =
          std::find_if(eight.begin(), eight.end(), [](int code) { return code > 15; });
      if (wrong != eight.end()) {
        check.fail<ValueError>("source", "got ", static_cast<int>(*wrong), " at [", first + row,
                               ", ", k + (wrong - eight.begin()), "], expected 0 to 15");
      }
      weight.set_int4(panel, row, k, eight);
    }
    for (std::int64_t group = 0; group < layout.groups(); ++group) {
      const auto at = static_cast<std::size_t>(row * layout.groups() + group);
      for (const float number : {from.scales[at], from.offsets[at]}) {
        if (std::isfinite(number)) continue;
        check.fail<ValueError>("source", "got the scale or offset ", number, " of row ",
                               first + row, ", group ", group, ", expected finite numbers");
      }
      weight.set_grid(panel, row, group * layout.group_size, from.scales[at], from.offsets[at]);
    }
  }
}

}  // namespace

std::shared_ptr<const Weight> pack_affine(const AffineSource& source, int num_threads,
                                          std::string_view function) {
  const ArgumentChecker check(function);
  check_source(check, source.num_rows, source.num_columns);
  if (source.num_columns % kAffineGroupSize != 0) {
    check.fail<ValueError>("source", "got ", source.num_columns,
                           " columns, expected whole groups of 32");
  }
  const PackedLayout layout{DType::int4, source.num_rows, source.num_columns, kAffineGroupSize};
  std::vector<AffinePanel> panels(static_cast<std::size_t>(std::max(num_threads, 1)));
  return packed_weight(layout, num_threads, [&](Weight& weight, std::int64_t panel, int worker) {
    AffinePanel& rows = panels[static_cast<std::size_t>(worker)];
    const std::int64_t first = panel * kPanelColumns;
    rows.codes.resize(static_cast<std::size_t>(kPanelColumns * layout.num_columns));
    rows.scales.resize(static_cast<std::size_t>(kPanelColumns * layout.groups()));
    rows.offsets.resize(rows.scales.size());
    source.read(first, std::min(first + kPanelColumns, layout.num_rows), rows.codes.data(),
                rows.scales.data(), rows.offsets.data());
    pack_affine_panel(check, rows, weight, panel);
  });
}

}  // namespace quire
