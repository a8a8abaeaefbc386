// What attention's kernels leave of some keys of a unit, for those that go on from there.
#pragma once

#include <cstdint>

namespace quire {

// Keys whose sums a part leaves in float32, a multiple of every kernel's tile.
inline constexpr std::int64_t kSumKeys = 512;

// The softmax over some of the keys, of every row of a unit, in float32 and in units of log2:
// maximum[r], sums[r] (kWidth partial sums of 2^(score - maximum)) and values[r], the sum of
// 2^(score - maximum) * v, not yet divided, in the order of lanes that v's dtype loads in.
struct StateView {
  float* maximum;  // [rows]; -inf: no key yet
  float* sums;     // [rows, width]
  float* values;   // [rows, padded v_head_dim]
  // Of parts of more than kSumKeys keys, until all of them are in: carried_sums.h. Of those on a
  // grid (FusedKernels::part_grid) always. Else null.
  float* carried = nullptr;
};

// Where the softmax weights of some keys are summed by block, for the rows of a unit.
struct BlockMassView {
  float* mass;                // [T, num_heads, num_columns]
  std::int64_t num_columns;   // of the block table
  std::int64_t first_column;  // what stands here and after is of this view's maxima
  float* maximum;             // [rows], in log2; -inf: no key yet
};

// The most parts that one unit's keys are split into.
inline constexpr std::int64_t kMostParts = 256;

}  // namespace quire
