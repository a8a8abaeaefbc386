// Rows of new keys and values as numbers of a quantised dtype.
#pragma once

#include "quire/cpu/attention_rows.h"

namespace quire {

template <class S>
struct QuantiseRow {
  using Rows = AttentionRows<S>;
  using Vec = typename S::Vec;

  // Kernels::largest.
  static float largest(const std::byte* from, DType dtype, std::int64_t count) {
    Vec most = S::zero();
    Vec poison = S::zero();  // 0 times all elements: NaN where one is not finite
    Rows::visit(dtype, [&](auto type) {
      const auto* p = reinterpret_cast<const decltype(type)*>(from);
      const auto add = [&](Vec x) {
        most = S::max(most, S::max(x, S::sub(S::zero(), x)));
        poison = S::fma(x, S::zero(), poison);
      };
      std::int64_t i = 0;
      for (; i + S::kWidth <= count; i += S::kWidth) add(S::load(p + i));
      if (i < count) add(S::load(p + i, static_cast<int>(count - i)));
    });
    return S::reduce_add(poison) == 0 ? S::reduce_max(most) : __builtin_nanf("");
  }

  // Kernels::quantise.
  static void run(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype,
                  std::int64_t count, float scale) {
    Rows::visit(from_dtype, [&](auto type) {
      const auto* p = reinterpret_cast<const decltype(type)*>(from);
      if (to_dtype == DType::int8) {
        quantise(p, reinterpret_cast<Int8*>(to), count, scale);
      } else {
        quantise(p, reinterpret_cast<Float8E4M3*>(to), count, scale);
      }
    });
  }

 private:
  // The same bits for each instruction set: a division and a rounding to nearest even.
  template <class From, class To>
  static void quantise(const From* from, To* to, std::int64_t count, float scale) {
    constexpr float most = largest_number(To{});
    const Vec divisor = S::set1(scale);
    float cut[S::kWidth];
    const auto divide = [&](Vec x) {
      const Vec number = S::div(x, divisor);
      S::store(cut, S::max(S::set1(-most), S::min(S::set1(most), number)));
    };
    std::int64_t i = 0;
    for (; i + S::kWidth <= count; i += S::kWidth) {
      divide(S::load(from + i));
      for (int lane = 0; lane < S::kWidth; ++lane) to[i + lane] = rounded(cut[lane], To{});
    }
    if (i == count) return;
    divide(S::load(from + i, static_cast<int>(count - i)));
    for (int lane = 0; i < count; ++i, ++lane) to[i] = rounded(cut[lane], To{});
  }

  // largest_of and from_float of quire/base/dtype.h, in a form that a compiler turns into vectors.
  static constexpr float largest_number(Int8) { return 127.0f; }
  static constexpr float largest_number(Float8E4M3) { return 448.0f; }

  // At 1.5 * 2^23 floats are 1 apart, and their lowest bits count.
  static Int8 rounded(float x, Int8) {
    return {static_cast<std::int8_t>(__builtin_bit_cast(std::uint32_t, x + 0x1.8p23f))};
  }

  // At 2^14 floats are 2^-9 apart, as subnormal numbers of a float8 are.
  static Float8E4M3 rounded(float x, Float8E4M3) {
    const auto bits = __builtin_bit_cast(std::uint32_t, x);
    const std::uint32_t sign = (bits >> 24) & 0x80u;
    const std::uint32_t m = bits & 0x7fffffffu;
    const std::uint32_t normal = ((m + 0x7ffffu + ((m >> 20) & 1u)) >> 20) - (120u << 3);
    const float shifted = __builtin_bit_cast(float, m) + 0x1p14f;
    const std::uint32_t subnormal =
        __builtin_bit_cast(std::uint32_t, shifted) - __builtin_bit_cast(std::uint32_t, 0x1p14f);
    return {static_cast<std::uint8_t>(sign | (m < 0x3c800000u ? subnormal : normal))};
  }
};

}  // namespace quire
