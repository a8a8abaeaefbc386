// From states to results: the parts of a unit are merged in their order, divided and written.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/cpu/simd_math.h"

namespace quire {

// Parts cover disjoint keys; M is the largest of their maxima and of the sink:
//
//   total = sum_p 2^(maximum_p - M) * sum_p + 2^(sink - M)
//   out = sum_p 2^(maximum_p - M) * values_p / total          lse = ln 2 * (M + log2(total))
//
// Source: Dao et al., "Flash-Decoding for long-context inference".
template <class S>
struct FinishAttention {
  using Rows = AttentionRows<S>;
  using Vec = typename S::Vec;

  static void run(const AttentionTask& task, const AttentionUnit& unit, const StateView* parts,
                  std::int64_t num_parts) {
    for (std::int64_t head = unit.kv_head_begin; head < unit.kv_head_end; ++head) {
      std::int64_t r = (head - unit.kv_head_begin) * unit.head_rows;
      for (std::int64_t t = 0; t < unit.num_tokens; ++t) {
        const std::int64_t token = Rows::token_of(unit, t).q_row;
        const bool sees = Rows::sees_any(unit, t);
        for (std::int64_t g = 0; g < task.group; ++g, ++r) {
          const std::int64_t q_head = head * task.group + g;
          if (sees) {
            write_row(task, token, q_head, parts, num_parts, r);
          } else {
            write_nothing(task, token, q_head);
          }
        }
      }
    }
  }

 private:
  static void write_nothing(const AttentionTask& task, std::int64_t token, std::int64_t head) {
    const std::int64_t bytes = Rows::row_bytes(task.out.dtype, task.v_head_dim);
    __builtin_memset(Rows::at(task.out, token, head), 0, static_cast<std::size_t>(bytes));
    if (task.lse != nullptr) task.lse[token * task.num_heads + head] = -__builtin_inff();
  }

  static void write_row(const AttentionTask& task, std::int64_t token, std::int64_t head,
                        const StateView* parts, std::int64_t num_parts, std::int64_t r) {
    float sink = -__builtin_inff();
    if (task.sinks != nullptr && task.sinks[head] > sink) {
      sink = Rows::finite(task.sinks[head] * Rows::kLog2E);
    }
    float largest = sink;
    for (std::int64_t p = 0; p < num_parts; ++p) {
      largest = parts[p].maximum[r] > largest ? parts[p].maximum[r] : largest;
    }
    float total = sink == -__builtin_inff() ? 0.0f : power(sink - largest);
    float weights[kMostParts];
    for (std::int64_t p = 0; p < num_parts; ++p) {
      const float maximum = parts[p].maximum[r];
      weights[p] = maximum == largest ? 1.0f : power(maximum - largest);
      total += weights[p] * S::reduce_add(S::load(parts[p].sums + r * S::kWidth));
    }
    Rows::visit_cache(task.v.dtype, [&](auto v_type) {
      Rows::visit(task.out.dtype, [&](auto type) {
        auto* const out = reinterpret_cast<decltype(type)*>(Rows::at(task.out, token, head));
        write_values<decltype(v_type)>(task, out, parts, num_parts, r, weights, total);
      });
    });
    if (task.lse != nullptr) {
      task.lse[token * task.num_heads + head] =
          static_cast<float>((largest + __builtin_log2(total)) * Rows::kLn2);
    }
  }

  // T: of the values, which decides their order of lanes.
  template <class T, class Out>
  static void write_values(const AttentionTask& task, Out* out, const StateView* parts,
                           std::int64_t num_parts, std::int64_t r, const float* weights,
                           float total) {
    const std::int64_t stride = Rows::padded(task.v_head_dim);
    const Vec divisor = S::set1(total);
    for (std::int64_t d = 0; d < task.v_head_dim; d += Rows::kChunk) {
      Vec lo = S::zero();
      Vec hi = S::zero();
      for (std::int64_t p = 0; p < num_parts; ++p) {
        const Vec weight = S::set1(weights[p]);
        const float* values = parts[p].values + r * stride + d;
        lo = S::fma(weight, S::load(values), lo);
        hi = S::fma(weight, S::load(values + S::kWidth), hi);
      }
      const auto pair = S::template to_natural<T>({S::div(lo, divisor), S::div(hi, divisor)});
      store(out + d, pair.lo, task.v_head_dim - d);
      store(out + d + S::kWidth, pair.hi, task.v_head_dim - d - S::kWidth);
    }
  }

  // As many elements of x as are left.
  template <class Out>
  static void store(Out* to, Vec x, std::int64_t left) {
    if (left >= S::kWidth) {
      S::store(to, x);
    } else if (left > 0) {
      S::store(to, x, static_cast<int>(left));
    }
  }

  static float power(float x) {
    float lanes[S::kWidth];
    S::store(lanes, SimdMath<S>::exp2(S::set1(x)));
    return lanes[0];
  }
};

}  // namespace quire
