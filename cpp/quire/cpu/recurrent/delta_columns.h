// The gated delta rule, as ops/recurrent/gated_delta_rule.h says, of some columns of one state.
//
// Columns know nothing of each other. Those of an item are copied to where they lie close together
// in the first-level cache, go through all tokens of the sequence, and are copied back. A token
// needs two passes over them: one finds S^T k and S^T q, and the other changes S. What is read is
// put together of both: e^g S^T q + delta (k . q).
#pragma once

#include <algorithm>

#include "quire/cpu/plain_rows.h"
#include "quire/cpu/recurrent/recurrent_tasks.h"

namespace quire {

template <class S>
class DeltaColumns {
 public:
  // Columns of as many vectors as leave a half of the first-level cache to others, with Dk of 128.
  static constexpr int kVectors = S::kWidth >= 16 ? 2 : 4;
  static constexpr std::int64_t kColumns = kVectors * S::kWidth;

  // The columns, and q and k of a token.
  static std::int64_t scratch_floats(std::int64_t num_keys) {
    return num_keys * kColumns + 2 * padded(num_keys);
  }

  static void run(const DeltaTask& task) {
    float* const s = task.scratch;
    float* const q = s + task.num_keys * kColumns;
    float* const k = q + padded(task.num_keys);
    for (std::int64_t i = 0; i < task.num_keys; ++i) {
      const float* const from = row_of(task, i);
      for (int j = 0; j < kVectors; ++j) {
        const int n = lanes(task, j);
        S::store(s + i * kColumns + j * S::kWidth,
                 n > 0 ? S::load(from + j * S::kWidth, n) : S::zero());
      }
    }
    for (std::int64_t t = 0; t < task.num_tokens; ++t) {
      widen(task.q + t * task.q_stride, task.q_dtype, task.num_keys, task.scale, q);
      widen(task.k + t * task.k_stride, task.k_dtype, task.num_keys, 1.0f, k);
      token(task, t, q, k, s);
    }
    for (std::int64_t i = 0; i < task.num_keys; ++i) {
      float* const to = row_of(task, i);
      for (int j = 0; j < kVectors; ++j) {
        if (const int n = lanes(task, j); n > 0) {
          S::store(to + j * S::kWidth, S::load(s + i * kColumns + j * S::kWidth), n);
        }
      }
    }
  }

 private:
  using Vec = typename S::Vec;
  // Sums of every kSums-th row, so that one addition need not wait for the one before.
  static constexpr int kSums = 4 / kVectors;

  static std::int64_t padded(std::int64_t count) {
    return (count + S::kWidth - 1) / S::kWidth * S::kWidth;
  }
  static float* row_of(const DeltaTask& task, std::int64_t i) {
    return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(task.state) +
                                    i * task.state_stride);
  }
  static int lanes(const DeltaTask& task, int j) {
    const std::int64_t left = task.num_columns - std::int64_t{j} * S::kWidth;
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, S::kWidth));
  }

  static void token(const DeltaTask& task, std::int64_t t, const float* q, const float* k,
                    float* s) {
    Vec found[kSums][kVectors], read[kSums][kVectors];
    for (int h = 0; h < kSums; ++h) {
      for (int j = 0; j < kVectors; ++j) found[h][j] = read[h][j] = S::zero();
    }
    std::int64_t row = 0;
    for (; row + kSums <= task.num_keys; row += kSums) {
#pragma GCC unroll 2
      for (int h = 0; h < kSums; ++h) add_row(s, row + h, q, k, found[h], read[h]);
    }
    for (; row < task.num_keys; ++row) add_row(s, row, q, k, found[0], read[0]);
    for (int h = 1; h < kSums; ++h) {
      for (int j = 0; j < kVectors; ++j) {
        found[0][j] = S::add(found[0][j], found[h][j]);
        read[0][j] = S::add(read[0][j], read[h][j]);
      }
    }
    const Vec decay = S::set1(task.decay[t * task.num_heads]);
    const Vec beta = S::set1(task.beta[t * task.num_heads]);
    const Vec both = S::set1(dot(k, q, task.num_keys));
    Vec delta[kVectors];
    for (int j = 0; j < kVectors; ++j) {
      const int n = lanes(task, j);
      const Vec v =
          n > 0 ? PlainRows<S>::load(task.v + t * task.v_stride, task.v_dtype, j * S::kWidth, n)
                : S::zero();
      delta[j] = S::mul(S::sub(v, S::mul(decay, found[0][j])), beta);
      const Vec out = S::fma(delta[j], both, S::mul(decay, read[0][j]));
      if (n > 0)
        PlainRows<S>::store(task.out + t * task.out_stride, task.q_dtype, j * S::kWidth, out, n);
    }
    for (std::int64_t i = 0; i < task.num_keys; ++i) {
      const Vec of_k = S::set1(k[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        float* const at = s + i * kColumns + j * S::kWidth;
        S::store(at, S::fma(of_k, delta[j], S::mul(S::load(at), decay)));
      }
    }
  }

  static void add_row(const float* s, std::int64_t row, const float* q, const float* k, Vec* found,
                      Vec* read) {
    const Vec of_k = S::set1(k[row]), of_q = S::set1(q[row]);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec x = S::load(s + row * kColumns + j * S::kWidth);
      found[j] = S::fma(x, of_k, found[j]);
      read[j] = S::fma(x, of_q, read[j]);
    }
  }

  // Of numbers with zeros behind them.
  static float dot(const float* a, const float* b, std::int64_t count) {
    Vec sum = S::zero();
    for (std::int64_t i = 0; i < count; i += S::kWidth) {
      sum = S::fma(S::load(a + i), S::load(b + i), sum);
    }
    return S::reduce_add(sum);
  }

  static void widen(const std::byte* row, DType dtype, std::int64_t count, float scale, float* to) {
    for (std::int64_t i = 0; i < count; i += S::kWidth) {
      const Vec x = PlainRows<S>::load(row, dtype, i, PlainRows<S>::lanes(count - i));
      S::store(to + i, S::mul(x, S::set1(scale)));
    }
  }
};

}  // namespace quire
