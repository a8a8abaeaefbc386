#include "quire/ops/linear/weight.h"

#include <algorithm>
#include <cstring>

#include "quire/base/interruption.h"
#include "quire/ops/argument_checker.h"

namespace quire {
namespace {

float scale_at(const std::byte* p) {
  float scale;
  std::memcpy(&scale, p, sizeof scale);
  return scale;
}

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
  if (format() == DType::int8) {
    return static_cast<double>(scales()[n]) * to_float(*reinterpret_cast<const Int8*>(p));
  }
  if (format() == DType::int4) {
    std::uint32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    const std::uint32_t number = bits >> PackedLayout::shift(k) & 15u;
    const std::byte* const scales = whole + layout_.scales_offset(k);
    const double scale = scale_at(scales + column * 4);
    return scale * number + scale_at(scales + (kPanelColumns + column) * 4);
  }
  return visit_dtype(format(), [&](auto type) -> double {
    return to_float(*reinterpret_cast<const decltype(type)*>(p));
  });
}

void Weight::unpack_row(std::int64_t n, float* to) const {
  const std::int64_t column = n % kPanelColumns;
  const std::byte* const whole = panel(n / kPanelColumns);
  if (format() == DType::int8) {
    const double scale = scales()[n];
    for (std::int64_t k = 0; k < num_columns(); ++k) {
      const auto* const number = reinterpret_cast<const Int8*>(whole + layout_.offset(column, k));
      to[k] = static_cast<float>(scale * to_float(*number));
    }
  } else if (format() == DType::int4) {
    for (std::int64_t k0 = 0; k0 < num_columns(); k0 += 8) {
      const std::byte* const scales = whole + layout_.scales_offset(k0);
      const double scale = scale_at(scales + column * 4);
      const double offset = scale_at(scales + (kPanelColumns + column) * 4);
      std::uint32_t bits;  // of 8 numbers
      std::memcpy(&bits, whole + layout_.offset(column, k0), sizeof bits);
      for (std::int64_t k = k0; k < std::min(k0 + 8, num_columns()); ++k) {
        to[k] = static_cast<float>(scale * (bits >> PackedLayout::shift(k) & 15u) + offset);
      }
    }
  } else {
    visit_dtype(format(), [&](auto type) {
      using T = decltype(type);
      for (std::int64_t k = 0; k < num_columns(); ++k) {
        to[k] = to_float(*reinterpret_cast<const T*>(whole + layout_.offset(column, k)));
      }
    });
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
