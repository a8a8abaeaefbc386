// Rotary position embedding, as ops/rotary/rope.h says.
//
// The angles of a token's pairs are computed once for all of its heads, kPairsAtOnce at a time.
#pragma once

#include <algorithm>

#include "quire/cpu/plain_rows.h"
#include "quire/cpu/rowwise/row_tasks.h"

namespace quire {

template <class S>
struct RopeRows {
  using Vec = typename S::Vec;

  static void run(const RopeTask& task) {
    PlainRows<S>::visit(task.dtype, [&](auto type) { tokens<decltype(type)>(task); });
  }

 private:
  static constexpr std::int64_t kPairsAtOnce = 128;  // a multiple of all vectors' widths

  // cos and sin of some pairs, times the attention factor.
  struct Turns {
    alignas(64) float cos[kPairsAtOnce], sin[kPairsAtOnce];

    // An angle is position * half_turns half turns. Whole ones are taken off in float64, which
    // leaves -1/2 to 1/2 of one and, where their number is odd, a sign. Adding 1.5 * 2^52 rounds to
    // whole numbers.
    void compute(const RopeTask& task, std::int64_t token, std::int64_t first, std::int64_t count) {
      alignas(64) float part[kPairsAtOnce], sign[kPairsAtOnce];
      const auto position = static_cast<double>(task.positions[token]);
      constexpr double kWhole = 0x1.8p52;
      for (std::int64_t i = 0; i < count; ++i) {
        const double angle = position * task.half_turns[first + i];
        const double halves = (angle + kWhole) - kWhole;
        const double wholes = (halves * 0.5 + kWhole) - kWhole;
        const double odd = halves - 2 * wholes;  // -1, 0 or 1
        part[i] = static_cast<float>(angle - halves);
        sign[i] = static_cast<float>(1 - 2 * odd * odd);
      }
      std::fill(part + count, part + kPairsAtOnce, 0.0f);
      std::fill(sign + count, sign + kPairsAtOnce, 1.0f);
      const Vec factor = S::set1(task.attention_factor);
      for (std::int64_t i = 0; i < count; i += S::kWidth) {
        const Vec r = S::load(part + i);
        const Vec scale = S::mul(S::load(sign + i), factor);
        S::store(cos + i, S::mul(cos_of_half_turns(r), scale));
        S::store(sin + i, S::mul(sin_of_half_turns(r), scale));
      }
    }
  };

  // sin(pi r) and cos(pi r) for |r| <= 1/2: polynomials with the smallest largest error, 1.4e-11
  // and 2.5e-10 before rounding.
  static Vec sin_of_half_turns(Vec r) {
    const Vec square = S::mul(r, r);
    Vec p = S::set1(-7.000500525e-3f);
    p = S::fma(p, square, S::set1(8.203123027e-2f));
    p = S::fma(p, square, S::set1(-5.992474049e-1f));
    p = S::fma(p, square, S::set1(2.550162795f));
    p = S::fma(p, square, S::set1(-5.167712741f));
    p = S::fma(p, square, S::set1(3.141592653f));
    return S::mul(p, r);
  }
  static Vec cos_of_half_turns(Vec r) {
    const Vec square = S::mul(r, r);
    Vec p = S::set1(-2.442070017e-2f);
    p = S::fma(p, square, S::set1(2.349539258e-1f));
    p = S::fma(p, square, S::set1(-1.335216105f));
    p = S::fma(p, square, S::set1(4.058709600f));
    p = S::fma(p, square, S::set1(-4.934802156f));
    return S::fma(p, square, S::set1(1.0f));
  }

  template <class T>
  static void tokens(const RopeTask& task) {
    Turns turns;
    for (std::int64_t token = 0; token < task.num_tokens; ++token) {
      const std::byte* const x = task.x + token * task.x_stride;
      std::byte* const out = task.out + token * task.out_stride;
      for (std::int64_t first = 0; first < task.num_pairs; first += kPairsAtOnce) {
        const std::int64_t count = std::min(kPairsAtOnce, task.num_pairs - first);
        turns.compute(task, token, first, count);
        for (std::int64_t head = 0; head < task.num_heads; ++head) {
          const T* const from = reinterpret_cast<const T*>(x + head * task.x_head_stride);
          T* const to = reinterpret_cast<T*>(out + head * task.out_head_stride);
          if (task.interleaved) {
            turn_neighbours(turns, from + 2 * first, count, to + 2 * first);
          } else {
            turn_halves(turns, from + first, task.num_pairs, count, to + first);
          }
        }
      }
      if (task.x != task.out) copy_rest<T>(task, x, out);
    }
  }

  template <class T>
  static void turn_halves(const Turns& turns, const T* from, std::int64_t half, std::int64_t count,
                          T* to) {
    std::int64_t i = 0;
    for (; i + S::kWidth <= count; i += S::kWidth) {
      const Vec a = S::load(from + i), b = S::load(from + half + i);
      S::store(to + i, first_of(turns, i, a, b));
      S::store(to + half + i, second_of(turns, i, a, b));
    }
    if (const int n = static_cast<int>(count - i); n > 0) {
      const Vec a = S::load(from + i, n), b = S::load(from + half + i, n);
      S::store(to + i, first_of(turns, i, a, b), n);
      S::store(to + half + i, second_of(turns, i, a, b), n);
    }
  }

  static Vec first_of(const Turns& turns, std::int64_t i, Vec a, Vec b) {
    return S::sub(S::mul(a, S::load(turns.cos + i)), S::mul(b, S::load(turns.sin + i)));
  }
  static Vec second_of(const Turns& turns, std::int64_t i, Vec a, Vec b) {
    return S::add(S::mul(b, S::load(turns.cos + i)), S::mul(a, S::load(turns.sin + i)));
  }

  // The same products and sums, with neighbours taken apart by plain loops, which the compiler
  // makes vectors of.
  template <class T>
  static void turn_neighbours(const Turns& turns, const T* from, std::int64_t count, T* to) {
    alignas(64) float pairs[2 * kPairsAtOnce];
    for (std::int64_t i = 0; i < 2 * count; i += S::kWidth) {
      S::store(pairs + i, S::load(from + i, PlainRows<S>::lanes(2 * count - i)));
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const float a = pairs[2 * i], b = pairs[2 * i + 1];
      pairs[2 * i] = a * turns.cos[i] - b * turns.sin[i];
      pairs[2 * i + 1] = b * turns.cos[i] + a * turns.sin[i];
    }
    for (std::int64_t i = 0; i < 2 * count; i += S::kWidth) {
      S::store(to + i, S::load(pairs + i), PlainRows<S>::lanes(2 * count - i));
    }
  }

  template <class T>
  static void copy_rest(const RopeTask& task, const std::byte* x, std::byte* out) {
    const std::int64_t begin = 2 * task.num_pairs * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t end = task.head_dim * static_cast<std::int64_t>(sizeof(T));
    if (begin == end) return;
    for (std::int64_t head = 0; head < task.num_heads; ++head) {
      __builtin_memcpy(out + head * task.out_head_stride + begin,
                       x + head * task.x_head_stride + begin,
                       static_cast<std::size_t>(end - begin));
    }
  }
};

}  // namespace quire
