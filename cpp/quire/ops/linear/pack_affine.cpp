#include "quire/ops/linear/pack_affine.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "quire/ops/argument_checker.h"
#include "quire/ops/linear/packed_weight.h"

namespace quire {
namespace {

// A panel's rows as they were read.
struct AffinePanel {
  std::vector<std::int8_t> numbers;
  std::vector<float> scales, offsets;
};

class AffinePacker {
 public:
  AffinePacker(const ArgumentChecker& check, Weight& weight, std::int64_t panel)
      : check_(check), weight_(weight), layout_(weight.layout()), panel_(panel) {}

  void pack(const AffinePanel& from, std::int64_t num_rows) const {
    for (std::int64_t row = 0; row < num_rows; ++row) {
      const std::span numbers(from.numbers.data() + row * layout_.num_columns,
                              static_cast<std::size_t>(layout_.num_columns));
      layout_.format == DType::int4 ? pack_int4(row, numbers) : pack_int8(row, numbers);
      for (std::int64_t group = 0; group < layout_.groups(); ++group) {
        const auto at = static_cast<std::size_t>(row * layout_.groups() + group);
        require_finite(row, group, from.scales[at]);
        require_finite(row, group, from.offsets[at]);
        weight_.set_grid(panel_, row, group * kAffineGroupSize, from.scales[at], from.offsets[at]);
      }
    }
  }

 private:
  void pack_int4(std::int64_t row, std::span<const std::int8_t> numbers) const {
    for (std::size_t k = 0; k < numbers.size(); k += 8) {
      const auto eight = numbers.subspan(k, 8);
      for (std::size_t i = 0; i < eight.size(); ++i) {
        if (eight[i] >= 0 && eight[i] <= 15) continue;
        check_.fail<ValueError>("source", "got ", static_cast<int>(eight[i]), " at [",
                                panel_ * kPanelColumns + row, ", ", k + i, "], expected 0 to 15");
      }
      weight_.set_int4(panel_, row, static_cast<std::int64_t>(k), eight);
    }
  }

  void pack_int8(std::int64_t row, std::span<const std::int8_t> numbers) const {
    for (std::size_t k0 = 0; k0 < numbers.size(); k0 += kBlockDepth) {
      std::byte* const block =
          weight_.panel(panel_) + layout_.offset(row, static_cast<std::int64_t>(k0));
      for (std::int64_t k = 0; k < kBlockDepth; ++k) {
        block[k * kHalfColumns] = static_cast<std::byte>(numbers[k0 + static_cast<std::size_t>(k)]);
      }
    }
  }

  void require_finite(std::int64_t row, std::int64_t group, float number) const {
    if (std::isfinite(number)) return;
    check_.fail<ValueError>("source", "got the scale or offset ", number, " of row ",
                            panel_ * kPanelColumns + row, ", group ", group,
                            ", expected finite numbers");
  }

  const ArgumentChecker& check_;
  Weight& weight_;
  const PackedLayout& layout_;
  const std::int64_t panel_;
};

}  // namespace

std::shared_ptr<const Weight> pack_affine(const AffineSource& source, int num_threads,
                                          std::string_view function) {
  const ArgumentChecker check(function);
  check_source(check, source.num_rows, source.num_columns);
  if (source.num_columns % kAffineGroupSize != 0) {
    check.fail<ValueError>("source", "got ", source.num_columns,
                           " columns, expected whole groups of 32");
  }
  if (source.format != DType::int4 && source.format != DType::int8) {
    check.fail<ValueError>("source", "got format ", name_of(source.format),
                           ", expected int4 or int8");
  }
  const PackedLayout layout{source.format, source.num_rows, source.num_columns, kAffineGroupSize};
  std::vector<AffinePanel> panels(static_cast<std::size_t>(std::max(num_threads, 1)));
  return packed_weight(layout, num_threads, [&](Weight& weight, std::int64_t panel, int worker) {
    AffinePanel& rows = panels[static_cast<std::size_t>(worker)];
    const std::int64_t first = panel * kPanelColumns;
    const std::int64_t count = std::min(kPanelColumns, layout.num_rows - first);
    rows.numbers.resize(static_cast<std::size_t>(kPanelColumns * layout.num_columns));
    rows.scales.resize(static_cast<std::size_t>(kPanelColumns * layout.groups()));
    rows.offsets.resize(rows.scales.size());
    source.read(first, first + count, rows.numbers.data(), rows.scales.data(), rows.offsets.data());
    AffinePacker(check, weight, panel).pack(rows, count);
  });
}

}  // namespace quire
