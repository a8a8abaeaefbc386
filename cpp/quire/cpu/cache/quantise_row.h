// Rows of new keys and values as numbers of a quantised dtype.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/format/row_scale.h"

namespace quire {

template <class S>
struct QuantiseRow {
  using Rows = AttentionRows<S>;
  using Vec = typename S::Vec;

  // CacheKernels::largest.
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

  // CacheKernels::quantise.
  static void run(const std::byte* from, DType from_dtype, std::byte* to, DType to_dtype,
                  std::int64_t count, float scale) {
    const float most = largest_number(to_dtype, scale);
    Rows::visit(from_dtype, [&](auto type) {
      const auto* p = reinterpret_cast<const decltype(type)*>(from);
      Rows::visit_quantised(to_dtype, [&](auto number) {
        quantise(p, reinterpret_cast<decltype(number)*>(to), count, scale, most);
      });
    });
  }

 private:
  // The same bits for each instruction set: a division and a rounding to nearest even.
  template <class From, class To>
  static void quantise(const From* from, To* to, std::int64_t count, float scale, float most) {
    const Vec divisor = S::set1(scale);
    const auto cut = [&](Vec x) {
      return S::max(S::set1(-most), S::min(S::set1(most), S::div(x, divisor)));
    };
    std::int64_t i = 0;
    for (; i + S::kWidth <= count; i += S::kWidth) S::store(to + i, cut(S::load(from + i)));
    if (const int n = static_cast<int>(count - i); n > 0) {
      S::store(to + i, cut(S::load(from + i, n)), n);
    }
  }
};

}  // namespace quire
