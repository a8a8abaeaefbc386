// How a packed weight lies in memory: where the kernels of a matrix product read it from one end to
// the other.
//
// A weight w [N, K] is cut into panels of 32 rows of w, which are 32 columns of the result, and a
// panel into blocks of 32 numbers of K; both are padded with zeros. A block has two halves of 16
// columns. What lies together is what a vector holds: the same K of neighbouring columns.
//
//   float32, float16   [N/32][K/32] [2 halves][32 k][16 columns]
//   bfloat16           [N/32][K/32] [2 halves][16 pairs of k][16 columns][2]
//   int8               [N/32][K/32] [2 halves][32 k][16 columns], then a float32 scale per column
//   int8 in groups     [N/32][K/group] of [group/32] [2 halves][32 k][16 columns], then 32 float32
//                      scales and 32 float32 offsets, of the panel's columns
//   int4               [N/32][K/group] of [group/32] [2 halves][4][16 columns][2][2 bytes], then
//                      scales and offsets likewise
//
// Pairs of bfloat16 are what tiles and dot products of AMX and AVX-512 multiply. Of int4, the four
// bytes of a column are 8 numbers of K: number 2 j + e of them is at bit 16 e + 4 j, so that a
// shift by 4 j leaves a pair in the two words of each lane.
#pragma once

#include <cstdint>

#include "quire/base/dtype.h"

namespace quire {

inline constexpr std::int64_t kPanelColumns = 32;
inline constexpr std::int64_t kHalfColumns = 16;
inline constexpr std::int64_t kBlockDepth = 32;  // numbers of K
// The scales and the offsets of a panel's columns behind each group.
inline constexpr std::int64_t kGroupScaleBytes = 2 * kPanelColumns * sizeof(float);

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) {
  return (n + step - 1) / step * step;
}

// The layout of one weight, by its format and sizes alone.
struct PackedLayout {
  DType format = DType::bfloat16;  // float32, float16, bfloat16, int8 or int4
  std::int64_t num_rows = 0;       // N
  std::int64_t num_columns = 0;    // K
  // Numbers of K that share a scale and an offset, of int4 and perhaps of int8; 0: there are none.
  std::int64_t group_size = 0;

  std::int64_t panels() const { return (num_rows + kPanelColumns - 1) / kPanelColumns; }
  // Numbers of K in a panel: whole groups.
  std::int64_t depth() const {
    return round_up(num_columns, group_size == 0 ? kBlockDepth : group_size);
  }
  std::int64_t block_bytes() const {
    constexpr std::int64_t kNumbers = kPanelColumns * kBlockDepth;
    return kNumbers * static_cast<std::int64_t>(size_of(format)) / numbers_of(format);
  }
  // A group with its scales and offsets; without groups, a whole panel.
  std::int64_t group_depth() const { return group_size == 0 ? depth() : group_size; }
  std::int64_t groups() const { return depth() / group_depth(); }
  std::int64_t group_bytes() const {
    return group_depth() / kBlockDepth * block_bytes() + (group_size == 0 ? 0 : kGroupScaleBytes);
  }
  std::int64_t panel_bytes() const { return groups() * group_bytes(); }
  // Of one scale per column, which stand behind all panels.
  std::int64_t scale_bytes() const {
    const bool has_scales = format == DType::int8 && group_size == 0;
    return has_scales ? panels() * kPanelColumns * std::int64_t{sizeof(float)} : 0;
  }
  std::int64_t bytes() const { return panels() * panel_bytes() + scale_bytes(); }

  // Where number k of column n of a panel begins, in bytes from the panel's beginning; of int4 the
  // dword that it is in.
  std::int64_t offset(std::int64_t n, std::int64_t k) const {
    const std::int64_t group = k / group_depth();
    const std::int64_t block = k % group_depth() / kBlockDepth;
    const std::int64_t half = n / kHalfColumns;
    const std::int64_t column = n % kHalfColumns;
    const std::int64_t depth = k % kBlockDepth;
    const std::int64_t start =
        group * group_bytes() + block * block_bytes() + half * (block_bytes() / 2);
    const auto item = static_cast<std::int64_t>(size_of(format));
    if (format == DType::int4) return start + (depth / 8 * kHalfColumns + column) * 4;
    if (format != DType::bfloat16) return start + (depth * kHalfColumns + column) * item;
    return start + ((depth / 2 * kHalfColumns + column) * 2 + depth % 2) * item;
  }
  // Where the scales and offsets of k's group begin, in bytes from the panel's beginning; of a
  // weight with groups.
  std::int64_t scales_offset(std::int64_t k) const {
    return (k / group_depth() + 1) * group_bytes() - kGroupScaleBytes;
  }
  // The bit of that dword at which an int4 number begins.
  static constexpr int shift(std::int64_t k) {
    return static_cast<int>(k % 2 * 16 + k % 8 / 2 * 4);
  }
};

}  // namespace quire
