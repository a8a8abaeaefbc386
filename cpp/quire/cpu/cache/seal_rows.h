// Rows of plain floats as those of a sealed block: the bits of quire/format/row_sealing.h.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/cpu/cache/quantise_row.h"
#include "quire/format/int4_grid.h"
#include "quire/format/row_scale.h"
#include "quire/format/row_sealing.h"

namespace quire {

template <class S>
struct SealRows {
  using Rows = AttentionRows<S>;
  using Vec = typename S::Vec;
  using Pair = typename S::Pair;
  static constexpr int kChunk = Rows::kChunk;

  // Channels are sealed by themselves, so that vectors go through the tokens side by side. Pairs
  // are in the order of load_pair(const BFloat16*), in which codes are made.
  static void keys(const RowsToSeal& keys, const SealedRows& to) {
    bool is_sound = true;
    Rows::visit(keys.dtype, [&](auto type) {
      using T = decltype(type);
      for (std::int64_t d = 0; is_sound && d < keys.length; d += kChunk) {
        const int n = static_cast<int>(Rows::smaller(kChunk, keys.length - d));
        Int4Grid* const grids = reinterpret_cast<Int4Grid*>(to.scales) + d;
        is_sound = seal_channels<T>(keys, d, n, to, grids);
      }
    });
    if (!is_sound) kPlainSealing.keys(keys, to);
  }

  // Grids of kWidth rows are worked out together.
  static void values(const RowsToSeal& values, const SealedRows& to) {
    bool is_sound = true;
    Rows::visit(values.dtype, [&](auto type) {
      using T = decltype(type);
      for (std::int64_t row = 0; is_sound && row < values.count; row += S::kWidth) {
        const int n = static_cast<int>(Rows::smaller(S::kWidth, values.count - row));
        is_sound = seal_some_values<T>(values, row, n, to);
      }
    });
    if (!is_sound) kPlainSealing.values(values, to);
  }

  static void rows(const RowsToSeal& rows, DType dtype, const SealedRows& to) {
    for (std::int64_t row = 0; row < rows.count; ++row) {
      const std::byte* const from = rows.from + row * rows.stride;
      std::byte* const numbers = to.numbers + row * to.stride;
      std::byte* const scale = to.scales + row * to.scale_stride;
      const float largest = QuantiseRow<S>::largest(from, rows.dtype, rows.length);
      if (!(largest >= 0)) {
        kPlainSealing.rows({from, 0, rows.dtype, 1, rows.length}, dtype, {numbers, 0, scale, 0});
        continue;
      }
      const float own = scale_of_row(largest, dtype);
      *reinterpret_cast<float*>(scale) = own;
      QuantiseRow<S>::run(from, rows.dtype, numbers, dtype, rows.length, own);
    }
  }

 private:
  template <class T>
  static const T* row_at(const RowsToSeal& rows, std::int64_t row) {
    return reinterpret_cast<const T*>(rows.from + row * rows.stride);
  }

  // kChunk elements, or n of them and 0, in the order of bfloat16.
  static Pair load(const BFloat16* p, int n) {
    return n == kChunk ? S::load_pair(p) : S::load_pair(p, n);
  }
  template <class T>
  static Pair load(const T* p, int n) {
    if (n == kChunk) return in_order({S::load(p), S::load(p + S::kWidth)});
    if (n <= S::kWidth) return in_order({S::load(p, n), S::zero()});
    return in_order({S::load(p), S::load(p + S::kWidth, n - S::kWidth)});
  }
  static Pair in_order(Pair natural) { return S::template from_natural<BFloat16>(natural); }

  // Steps and middles of the grids between some numbers, as the float16s that they are.
  static void grids_between(Vec low, Vec high, Float16* steps, Float16* middles) {
    constexpr float kSmallestStep = 0x1p-24f;
    const Vec step = S::div(S::sub(high, low), S::set1(15));
    S::store(steps, S::max(step, S::set1(kSmallestStep)));
    // between the two, so that it is cut off nowhere
    S::store(middles, S::add(low, S::mul(S::set1(8), S::load(steps))));
  }

  // Whether grids can hold what is between these, and poison is 0: of a number that is not finite
  // it is NaN.
  static bool fit(Vec low, Vec high, Vec poison) {
    const Vec most = S::max(high, S::sub(S::zero(), low));
    return S::reduce_add(poison) == 0 && !S::any(S::less(S::set1(kLargestOnGrid), most));
  }

  // False for numbers that do not fit.
  template <class T>
  static bool seal_channels(const RowsToSeal& keys, std::int64_t d, int n, const SealedRows& to,
                            Int4Grid* grids) {
    Pair low = load(row_at<T>(keys, 0) + d, n), high = low;
    Vec poison = S::zero();
    for (std::int64_t token = 0; token < keys.count; ++token) {
      const Pair x = load(row_at<T>(keys, token) + d, n);
      low = {S::min(x.lo, low.lo), S::min(x.hi, low.hi)};
      high = {S::max(x.lo, high.lo), S::max(x.hi, high.hi)};
      poison = S::fma(x.lo, S::zero(), S::fma(x.hi, S::zero(), poison));
    }
    if (!fit(low.lo, high.lo, poison) || !fit(low.hi, high.hi, poison)) return false;

    Float16 steps[kChunk], middles[kChunk];
    const Pair lows = S::template to_natural<BFloat16>(low);
    const Pair highs = S::template to_natural<BFloat16>(high);
    grids_between(lows.lo, highs.lo, steps, middles);
    grids_between(lows.hi, highs.hi, steps + S::kWidth, middles + S::kWidth);
    for (int i = 0; i < n; ++i) grids[i] = {steps[i], middles[i]};
    const Pair step = load(steps, kChunk), middle = load(middles, kChunk);
    for (std::int64_t token = 0; token < keys.count; ++token) {
      const Pair x = load(row_at<T>(keys, token) + d, n);
      store(to.numbers + token * to.stride + d / 2, x, step, middle, n);
    }
    return true;
  }

  static void store(std::byte* codes, Pair x, Pair step, Pair middle, int n) {
    const Pair numbers = {S::div(S::sub(x.lo, middle.lo), step.lo),
                          S::div(S::sub(x.hi, middle.hi), step.hi)};
    if (n == kChunk) return S::store_int4(codes, numbers);
    S::store_int4(codes, numbers, n);
  }

  template <class T>
  static bool seal_some_values(const RowsToSeal& values, std::int64_t first, int count,
                               const SealedRows& to) {
    float low[S::kWidth] = {}, high[S::kWidth] = {};
    for (int i = 0; i < count; ++i) {
      if (!find_ends(row_at<T>(values, first + i), values.length, low[i], high[i])) return false;
    }
    Float16 steps[S::kWidth], middles[S::kWidth];
    grids_between(S::load(low), S::load(high), steps, middles);
    float own_steps[S::kWidth], own_middles[S::kWidth];
    S::store(own_steps, S::load(steps));
    S::store(own_middles, S::load(middles));
    for (int i = 0; i < count; ++i) {
      const std::int64_t row = first + i;
      *reinterpret_cast<Int4Grid*>(to.scales + row * to.scale_stride) = {steps[i], middles[i]};
      const Vec step = S::set1(own_steps[i]), middle = S::set1(own_middles[i]);
      const T* const from = row_at<T>(values, row);
      std::byte* const codes = to.numbers + row * to.stride;
      std::int64_t d = 0;
      for (; d + kChunk <= values.length; d += kChunk) {
        store(codes + d / 2, load(from + d, kChunk), {step, step}, {middle, middle}, kChunk);
      }
      if (const int n = static_cast<int>(values.length - d); n > 0) {
        store(codes + d / 2, load(from + d, n), {step, step}, {middle, middle}, n);
      }
    }
    return true;
  }

  // The lowest and the highest number of a row; false for numbers that do not fit.
  template <class T>
  static bool find_ends(const T* row, std::int64_t length, float& lowest, float& highest) {
    constexpr float kMost = __FLT_MAX__;
    Vec low = S::set1(kMost), high = S::set1(-kMost), poison = S::zero();
    const auto add = [&](Vec x) { poison = S::fma(x, S::zero(), poison); };
    std::int64_t d = 0;
    for (; d + S::kWidth <= length; d += S::kWidth) {
      const Vec x = S::load(row + d);
      low = S::min(x, low);
      high = S::max(x, high);
      add(x);
    }
    if (const int n = static_cast<int>(length - d); n > 0) {
      const Vec x = S::load(row + d, n);
      low = S::min(S::select(S::lanes(0, n), x, low), low);
      high = S::max(S::select(S::lanes(0, n), x, high), high);
      add(x);
    }
    lowest = -S::reduce_max(S::sub(S::zero(), low));
    highest = S::reduce_max(high);
    return S::reduce_add(poison) == 0 && lowest >= -kLargestOnGrid && highest <= kLargestOnGrid;
  }
};

}  // namespace quire
