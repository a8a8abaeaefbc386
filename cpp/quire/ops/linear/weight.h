// The weight of a linear layer, packed once for all products with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "quire/base/array_view.h"
#include "quire/base/huge_pages.h"
#include "quire/ops/linear/packed_layout.h"

namespace quire {

// Owns the packed numbers of w [N, K]. They do not change once it is made, so that threads may
// share it.
class Weight {
 public:
  // Numbers are zero until they are packed. Throws std::bad_alloc.
  explicit Weight(const PackedLayout& layout);

  const PackedLayout& layout() const { return layout_; }
  std::int64_t num_rows() const { return layout_.num_rows; }        // N
  std::int64_t num_columns() const { return layout_.num_columns; }  // K
  DType format() const { return layout_.format; }
  std::int64_t group_size() const { return layout_.group_size; }  // 0: there are no groups
  std::int64_t nbytes() const { return layout_.bytes(); }

  std::byte* panel(std::int64_t index) { return data_.get() + index * layout_.panel_bytes(); }
  const std::byte* panel(std::int64_t index) const {
    return data_.get() + index * layout_.panel_bytes();
  }
  // One for each column of the panels, of int8 without groups; else null.
  float* scales() { return const_cast<float*>(std::as_const(*this).scales()); }
  const float* scales() const {
    if (layout_.scale_bytes() == 0) return nullptr;
    return reinterpret_cast<const float*>(panel(layout_.panels()));
  }

  // Of int4, while it is packed: up to 8 numbers of 0 to 15 of a panel's column from number k on, a
  // multiple of 8.
  void set_int4(std::int64_t panel, std::int64_t column, std::int64_t k,
                std::span<const std::int8_t> numbers) {
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      bits |= static_cast<std::uint32_t>(numbers[i])
              << PackedLayout::shift(static_cast<std::int64_t>(i));
    }
    std::memcpy(this->panel(panel) + layout_.offset(column, k), &bits, sizeof bits);
  }
  // The scale and the offset of the group of number k of a panel's column.
  void set_grid(std::int64_t panel, std::int64_t column, std::int64_t k, float scale, float offset);

  // Number (n, k) as it is multiplied: exact, but for the rounding of scale * number + offset to
  // float64, of int8 and int4.
  double at(std::int64_t n, std::int64_t k) const;
  // Row n: the numbers of at(), rounded to float32.
  void unpack_row(std::int64_t n, float* to) const;

 private:
  void unpack_groups(std::int64_t n, float* to) const;

  PackedLayout layout_;
  PagedBytes data_;
};

// Writes w [N, K] to `out`, float32 [N, K]: the numbers of at(), rounded. Throws ValueError or
// TypeError where `out` is another array.
void unpack_weight(const Weight& weight, const ArrayView& out);

}  // namespace quire
