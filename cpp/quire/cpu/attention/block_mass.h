// The softmax's weights, summed by block: the scores of direct_attention.h once more, without
// values.
#pragma once

#include "quire/cpu/attention/direct_attention.h"

namespace quire {

template <class S>
class BlockMass {
 public:
  using Rows = AttentionRows<S>;
  static constexpr int kKeys = 32;  // of a tile
  using Direct = DirectAttention<S, kKeys>;
  using Copies = TileCopies<S, kKeys>;

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    return rows * (S::kWidth + 1) + Direct::scratch_floats(task, rows) +
           Copies::scratch_floats(task);
  }

  static void run(const AttentionTask& task, const AttentionPart& part, float* scratch,
                  const BlockMassView& mass) {
    const AttentionUnit& unit = part.unit;
    AttentionTask keys_alone = task;
    keys_alone.v_head_dim = 0;
    keys_alone.v.scale = {};
    keys_alone.out.dtype = DType::float32;  // for weights that are not rounded to values' dtype
    const std::int64_t rows = unit.num_tokens * task.group;
    float* const sums = scratch;
    float* const direct_scratch = sums + rows * S::kWidth;
    float* const before = direct_scratch + Direct::scratch_floats(task, rows);
    for (std::int64_t i = 0; i < rows * S::kWidth; i += S::kWidth) S::store(sums + i, S::zero());
    for (std::int64_t r = 0; r < rows; ++r) before[r] = mass.maximum[r];

    const AttentionTask& read =
        Copies::are_needed(task, part) ? Copies::as_read(keys_alone, before + rows) : keys_alone;
    Direct(read, unit, direct_scratch, {mass.maximum, sums, sums})
        .for_weights(part, nullptr, BlockMass(task, unit, mass, before));
  }

  // Takes the weights [count, kDirectKeys] of a group's rows and a tile's keys.
  template <class Tile, class Group>
  void operator()(const Tile& tile, const Group& group, const float* weights, LineQueue<S>&) const {
    for (int i = 0; i < group.count; ++i) {
      const int begin = group.whole ? 0 : group.begin[i];
      const int end = group.whole ? kKeys : group.end[i];
      add(group.row + i, tile.first(), begin, end, weights + i * kDirectKeys);
    }
  }

 private:
  BlockMass(const AttentionTask& task, const AttentionUnit& unit, const BlockMassView& mass,
            float* before)
      : task_(task), unit_(unit), mass_(mass), before_(before) {}

  // The weights of the keys tile_first + [begin, end), to their columns.
  void add(std::int64_t row, std::int64_t tile_first, int begin, int end,
           const float* weights) const {
    if (begin >= end) return;
    const std::int64_t token = unit_.first_token.q_row + row / task_.group;
    const std::int64_t head = unit_.kv_head_begin * task_.group + row % task_.group;
    float* const columns = mass_.mass + (token * task_.num_heads + head) * mass_.num_columns;
    std::int64_t column = (tile_first + begin) / task_.block_size;
    std::int64_t left = task_.block_size - (tile_first + begin) % task_.block_size;
    if (mass_.maximum[row] != before_[row]) rescale(row, columns, column);
    float sum = 0;
    for (int key = begin; key < end; ++key) {
      sum += weights[key];
      if (--left > 0 && key + 1 < end) continue;
      columns[column++] += sum;
      sum = 0;
      left = task_.block_size;
    }
  }

  // What stands in the columns up to `last`, as of the maximum that the row has now.
  void rescale(std::int64_t row, float* columns, std::int64_t last) const {
    const float from = before_[row];
    before_[row] = mass_.maximum[row];
    if (from == -__builtin_inff()) return;
    float lanes[S::kWidth];
    S::store(lanes, SimdMath<S>::exp2(S::set1(from - mass_.maximum[row])));
    for (std::int64_t i = mass_.first_column; i <= last; ++i) columns[i] *= lanes[0];
  }

  const AttentionTask& task_;
  const AttentionUnit& unit_;
  const BlockMassView& mass_;
  float* const before_;  // [rows]: the maxima that what stands there is of
};

}  // namespace quire
