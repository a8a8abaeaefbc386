// States of attention in tiles: how those of one cell are taken into those of the cells before, and
// how results come of them.
//
// Cells are taken in one by one, in order, whoever does it: the kernel, where a part has several
// cells, or who merges the parts of a unit. A cell that a row sees nothing of changes no bit.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/cpu/simd_math.h"

namespace quire {

// Of some rows: [rows] and [rows, stride of values].
struct TileState {
  float* maximum;
  float* sum;
  std::int64_t sum_stride;
  float* values;
};

template <class S>
struct TileStates {
  using Rows = AttentionRows<S>;
  using Vec = typename S::Vec;
  static constexpr int kWidth = 16;  // FusedKernels::width, of which states are made

  // Floats of a row of values, whole tiles.
  static std::int64_t padded(std::int64_t columns) { return (columns + 31) / 32 * 32; }

  static TileState of(const StateView& state) {
    return {state.maximum, state.sums, kWidth, state.values};
  }

  static void clear(const TileState& state, std::int64_t rows, std::int64_t stride) {
    for (std::int64_t r = 0; r < rows; ++r) {
      state.maximum[r] = -__builtin_inff();
      state.sum[r * state.sum_stride] = 0;
    }
    for (std::int64_t i = 0; i < rows * stride; i += S::kWidth) {
      S::store(state.values + i, S::zero());
    }
  }

  // Takes a later cell's state in.
  static void add(const TileState& later, const TileState& state, std::int64_t rows,
                  std::int64_t stride) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const float a = state.maximum[r], b = later.maximum[r];
      const float maximum = a > b ? a : b;
      const float by_a = shrink(a, maximum), by_b = shrink(b, maximum);
      float& sum = state.sum[r * state.sum_stride];
      sum = __builtin_fmaf(by_a, sum, by_b * later.sum[r * later.sum_stride]);
      state.maximum[r] = maximum;
      float* const to = state.values + r * stride;
      const float* const from = later.values + r * stride;
      for (std::int64_t d = 0; d < stride; d += S::kWidth) {
        const Vec other = S::mul(S::set1(by_b), S::load(from + d));
        S::store(to + d, S::fma(S::set1(by_a), S::load(to + d), other));
      }
    }
  }

  // FusedKernels::finish. The first part's state takes the others in.
  static void finish(const AttentionTask& task, const AttentionUnit& unit, const StateView* parts,
                     std::int64_t num_parts) {
    const std::int64_t stride = padded(task.v_head_dim);
    for (std::int64_t head = unit.kv_head_begin; head < unit.kv_head_end; ++head) {
      std::int64_t r = (head - unit.kv_head_begin) * unit.head_rows;
      for (std::int64_t p = 1; p < num_parts; ++p) {
        add(rows_from(parts[p], r, stride), rows_from(parts[0], r, stride),
            unit.num_tokens * task.group, stride);
      }
      for (std::int64_t t = 0; t < unit.num_tokens; ++t) {
        const std::int64_t token = Rows::token_of(unit, t).q_row;
        const bool sees = Rows::sees_any(unit, t);
        for (std::int64_t g = 0; g < task.group; ++g, ++r) {
          write_row(task, token, head * task.group + g, rows_from(parts[0], r, stride), sees);
        }
      }
    }
  }

 private:
  static TileState rows_from(const StateView& state, std::int64_t row, std::int64_t stride) {
    return {state.maximum + row, state.sums + row * kWidth, kWidth, state.values + row * stride};
  }

  static float shrink(float from, float to) { return from == to ? 1.0f : power(from - to); }
  static float power(float x) {
    float lanes[S::kWidth];
    S::store(lanes, SimdMath<S>::exp2(S::set1(x)));
    return lanes[0];
  }

  // As FinishAttention, of one state.
  static void write_row(const AttentionTask& task, std::int64_t token, std::int64_t head,
                        const TileState& state, bool sees) {
    auto* const out = reinterpret_cast<BFloat16*>(Rows::at(task.out, token, head));
    float* const lse = task.lse == nullptr ? nullptr : task.lse + token * task.num_heads + head;
    if (!sees) {
      __builtin_memset(static_cast<void*>(out), 0, static_cast<std::size_t>(2 * task.v_head_dim));
      if (lse != nullptr) *lse = -__builtin_inff();
      return;
    }
    float sink = -__builtin_inff();
    if (task.sinks != nullptr && task.sinks[head] > sink) {
      sink = Rows::finite(task.sinks[head] * Rows::kLog2E);
    }
    const float maximum = *state.maximum;
    const float largest = maximum > sink ? maximum : sink;
    const float weight = shrink(maximum, largest);
    const float of_sink = sink == -__builtin_inff() ? 0.0f : shrink(sink, largest);
    const float total = __builtin_fmaf(weight, *state.sum, of_sink);
    const Vec factor = S::set1(weight / total);
    // a sum that has become zero from below may have kept its sign, or not
    for (std::int64_t d = 0; d < task.v_head_dim; d += S::kWidth) {
      const Vec x = S::add(S::mul(S::load(state.values + d), factor), S::zero());
      const std::int64_t rest = task.v_head_dim - d;
      if (rest >= S::kWidth) {
        S::store(out + d, x);
      } else {
        S::store(out + d, x, static_cast<int>(rest));
      }
    }
    if (lse != nullptr) {
      *lse = static_cast<float>((largest + __builtin_log2(total)) * Rows::kLn2);
    }
  }
};

}  // namespace quire
