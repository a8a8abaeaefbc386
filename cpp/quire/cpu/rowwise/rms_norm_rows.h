// Root mean square normalisation of rows, as ops/norm/rms_norm.h says.
//
// A row's sum of squares is that of kSums vectors, each of every kSums-th vector of the row, and
// its bits are the row's own. The row is read twice: the second time it is in the first-level
// cache.
#pragma once

#include <type_traits>

#include "quire/cpu/plain_rows.h"
#include "quire/cpu/rowwise/activations.h"
#include "quire/cpu/rowwise/row_tasks.h"

namespace quire {

template <class S>
struct RmsNormRows {
  using Vec = typename S::Vec;

  static void run(const RmsNormTask& task) {
    // Rows of float32 may become narrower ones, others stay what they are.
    PlainRows<S>::visit(task.dtype, [&](auto type) {
      using T = decltype(type);
      if constexpr (std::is_same_v<T, float>) {
        PlainRows<S>::visit(task.out_dtype, [&](auto out) { rows<T, decltype(out)>(task); });
      } else {
        rows<T, T>(task);
      }
    });
  }

  static void widen(const std::byte* from, DType dtype, std::int64_t count, float offset,
                    float* to) {
    PlainRows<S>::visit(dtype, [=](auto type) {
      widen_of(reinterpret_cast<const decltype(type)*>(from), count, offset, to);
    });
  }

 private:
  static constexpr int kSums = 4;

  // T: what is read, O: what is written.
  template <class T, class O>
  static void rows(const RmsNormTask& task) {
    for (std::int64_t row = 0; row < task.num_rows; ++row) {
      const T* h = row_of<T>(task.x, row, task.x_stride);
      O* const out = reinterpret_cast<O*>(task.out + row * task.out_stride);
      float squares = 0;
      if (task.residual != nullptr) {
        T* const sums = reinterpret_cast<T*>(task.sums + row * task.sums_stride);
        squares = squares_of(task.length, [&, a = h](std::int64_t i, int n) {
          const T* const b = row_of<T>(task.residual, row, task.residual_stride);
          const Vec sum = S::add(load(a + i, n), load(b + i, n));
          n == S::kWidth ? S::store(sums + i, sum) : S::store(sums + i, sum, n);
          return load(sums + i, n);  // rounded
        });
        h = sums;
      } else {
        squares = squares_of(task.length, [h](std::int64_t i, int n) { return load(h + i, n); });
      }
      const double mean = static_cast<double>(squares) / static_cast<double>(task.length);
      const Vec factor = S::set1(static_cast<float>(1 / __builtin_sqrt(mean + task.eps)));
      if (task.gate == nullptr) {
        const std::int64_t next = row + 1;
        scale(h, factor, task.weight, task.length, out, task.x + next * task.x_stride,
              task.residual == nullptr ? nullptr : task.residual + next * task.residual_stride);
      } else {
        scale(h, factor, task.weight, row_of<T>(task.gate, row, task.gate_stride), task.length,
              out);
      }
    }
  }

  template <class T>
  static Vec load(const T* p, int n) {
    return n == S::kWidth ? S::load(p) : S::load(p, n);
  }

  template <class T>
  static const T* row_of(const std::byte* first, std::int64_t row, std::int64_t stride) {
    return reinterpret_cast<const T*>(first + row * stride);
  }

  // The sum of the squares of a row, of which number(i, n) gives n numbers from i on.
  template <class Number>
  static float squares_of(std::int64_t length, const Number& number) {
    Vec sums[kSums];
    for (Vec& sum : sums) sum = S::zero();
    std::int64_t i = 0;
    for (; i + kSums * S::kWidth <= length; i += kSums * S::kWidth) {
#pragma GCC unroll 4
      for (int j = 0; j < kSums; ++j) {
        const Vec x = number(i + j * S::kWidth, S::kWidth);
        sums[j] = S::fma(x, x, sums[j]);
      }
    }
    for (; i < length; i += S::kWidth) {
      const Vec x = number(i, PlainRows<S>::lanes(length - i));
      sums[0] = S::fma(x, x, sums[0]);
    }
    return S::reduce_add(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
  }

  // The next row is asked for meanwhile, so that memory is read all the time. That it may be
  // nobody's, after the last one, harms nothing.
  template <class T, class O>
  static void scale(const T* h, Vec factor, const float* weight, std::int64_t length, O* out,
                    const std::byte* next, const std::byte* next_residual) {
    std::int64_t i = 0;
    for (; i + S::kWidth <= length; i += S::kWidth) {
      const std::int64_t bytes = i * static_cast<std::int64_t>(sizeof(T));
      S::prefetch(next + bytes);
      if (next_residual != nullptr) S::prefetch(next_residual + bytes);
      S::store(out + i, S::mul(S::mul(S::load(h + i), factor), S::load(weight + i)));
    }
    if (const int n = static_cast<int>(length - i); n > 0) {
      S::store(out + i, S::mul(S::mul(S::load(h + i, n), factor), S::load(weight + i, n)), n);
    }
  }

  template <class T, class O>
  static void scale(const T* h, Vec factor, const float* weight, const T* gate, std::int64_t length,
                    O* out) {
    for (std::int64_t i = 0; i < length; i += S::kWidth) {
      const int n = PlainRows<S>::lanes(length - i);
      const Vec y = S::mul(S::mul(S::load(h + i, n), factor), S::load(weight + i, n));
      S::store(out + i, S::mul(y, Activations<S>::silu(S::load(gate + i, n))), n);
    }
  }

  template <class T>
  static void widen_of(const T* from, std::int64_t count, float offset, float* to) {
    for (std::int64_t i = 0; i < count; i += S::kWidth) {
      const int n = PlainRows<S>::lanes(count - i);
      S::store(to + i, S::add(S::load(from + i, n), S::set1(offset)), n);
    }
  }
};

}  // namespace quire
