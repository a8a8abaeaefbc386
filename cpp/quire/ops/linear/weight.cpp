#include "quire/ops/linear/weight.h"

#include <algorithm>
#include <cstring>

#include "quire/base/interruption.h"
#include "quire/ops/argument_checker.h"

namespace quire {
namespace {

// What the numbers of a group stand for: scale * number + offset.
struct Grid {
  double scale, offset;

  // `scales` are those of the group, and then its offsets.
  Grid(const std::byte* scales, std::int64_t column) {
    float two[2];
    std::memcpy(&two[0], scales + column * 4, sizeof two[0]);
    std::memcpy(&two[1], scales + (kPanelColumns + column) * 4, sizeof two[1]);
    scale = two[0];
    offset = two[1];
  }
};

}  // namespace

// In huge pages: a product reads a weight from one end to the other, and each page is looked up
// once.
Weight::Weight(const PackedLayout& layout) : layout_(layout), data_(large_bytes(layout.bytes())) {
  std::memset(data_.get(), 0, static_cast<std::size_t>(layout.bytes()));
}

void Weight::set_grid(std::int64_t panel, std::int64_t column, std::int64_t k, float scale,
                      float offset) {
  std::byte* const scales = this->panel(panel) + layout_.scales_offset(k);
  std::memcpy(scales + column * 4, &scale, sizeof scale);
  std::memcpy(scales + (kPanelColumns + column) * 4, &offset, sizeof offset);
}

double Weight::at(std::int64_t n, std::int64_t k) const {
  const std::int64_t column = n % kPanelColumns;
  const std::byte* const whole = panel(n / kPanelColumns);
  const std::byte* const p = whole + layout_.offset(column, k);
  if (group_size() != 0) {
    const Grid grid(whole + layout_.scales_offset(k), column);
    if (format() == DType::int8) {
      return grid.scale * to_float(*reinterpret_cast<const Int8*>(p)) + grid.offset;
    }
    std::uint32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return grid.scale * (bits >> PackedLayout::shift(k) & 15u) + grid.offset;
  }
  if (format() == DType::int8) {
    return static_cast<double>(scales()[n]) * to_float(*reinterpret_cast<const Int8*>(p));
  }
  return visit_dtype(format(), [&](auto type) -> double {
    return to_float(*reinterpret_cast<const decltype(type)*>(p));
  });
}

void Weight::unpack_row(std::int64_t n, float* to) const {
  if (group_size() != 0) return unpack_groups(n, to);
  const std::int64_t column = n % kPanelColumns;
  const std::byte* const whole = panel(n / kPanelColumns);
  const auto number = [&](std::int64_t k) { return whole + layout_.offset(column, k); };
  if (format() == DType::int8) {
    const double scale = scales()[n];
    for (std::int64_t k = 0; k < num_columns(); ++k) {
      to[k] = static_cast<float>(scale * to_float(*reinterpret_cast<const Int8*>(number(k))));
    }
  } else {
    visit_dtype(format(), [&](auto type) {
      using T = decltype(type);
      for (std::int64_t k = 0; k < num_columns(); ++k) {
        to[k] = to_float(*reinterpret_cast<const T*>(number(k)));
      }
    });
  }
}

// Eight numbers at a time, which are in one group, and of int4 in one dword.
void Weight::unpack_groups(std::int64_t n, float* to) const {
  const std::int64_t column = n % kPanelColumns;
  const std::byte* const whole = panel(n / kPanelColumns);
  for (std::int64_t k0 = 0; k0 < num_columns(); k0 += 8) {
    const Grid grid(whole + layout_.scales_offset(k0), column);
    const std::byte* const from = whole + layout_.offset(column, k0);
    std::uint32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    for (std::int64_t k = k0; k < std::min(k0 + 8, num_columns()); ++k) {
      double number = bits >> PackedLayout::shift(k) & 15u;
      if (format() == DType::int8) {
        number = to_float(reinterpret_cast<const Int8*>(from)[(k - k0) * kHalfColumns]);
      }
      to[k] = static_cast<float>(grid.scale * number + grid.offset);
    }
  }
}

void unpack_weight(const Weight& weight, const ArrayView& out) {
  const ArgumentChecker check("Weight.unpack");
  check.array("out", out, {weight.num_rows(), weight.num_columns()}, "N, K");
  if (out.dtype != DType::float32) {
    check.fail<TypeError>("out", "got ", name_of(out.dtype), ", expected float32");
  }
  check.written("out", out);
  for (std::int64_t n = 0; n < weight.num_rows(); ++n) {
    check_interruption();
    weight.unpack_row(n, reinterpret_cast<float*>(out.at(n)));
  }
}

}  // namespace quire
