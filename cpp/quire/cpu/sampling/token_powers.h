// The loops of sampling that go over a whole vocabulary of tokens.
#pragma once

#include <algorithm>

#include "quire/cpu/plain_rows.h"
#include "quire/cpu/sampling/sample_task.h"
#include "quire/cpu/simd_math.h"

namespace quire {

template <class S>
struct TokenPowers {
  using Vec = typename S::Vec;

  static float largest(const float* logits, std::int64_t count, bool* is_good) {
    const Vec infinity = S::set1(__builtin_inff());
    const Vec none = S::set1(-__builtin_inff());
    Vec most = none;
    Vec bad = S::zero();  // 1 where there was a number that is not below infinity
    for (std::int64_t i = 0; i < count; i += S::kWidth) {
      const int n = PlainRows<S>::lanes(count - i);
      const Vec x = S::select(S::lanes(0, n), S::load(logits + i, n), none);
      most = S::max(x, most);
      bad = S::select(S::less(x, infinity), bad, S::set1(1.0f));
    }
    *is_good = S::reduce_max(bad) == 0;
    return S::reduce_max(most);
  }

  static void powers(const float* logits, std::int64_t count, float largest, float scale,
                     float* powers) {
    const Vec most = S::set1(largest), factor = S::set1(scale);
    for (std::int64_t i = 0; i < count; i += S::kWidth) {
      const int n = PlainRows<S>::lanes(count - i);
      const Vec exponent = S::mul(S::sub(S::load(logits + i, n), most), factor);
      S::store(powers + i, SimdMath<S>::exp2(exponent), n);
    }
  }

  static void keep(const float* logits, std::int64_t count, float least_logit, float least_power,
                   float* powers, double* sums) {
    const Vec logit = S::set1(least_logit), power = S::set1(least_power);
    for (std::int64_t begin = 0; begin < count; begin += kTokensAtOnce) {
      const std::int64_t end = std::min(count, begin + kTokensAtOnce);
      Vec sum = S::zero();
      for (std::int64_t i = begin; i < end; i += S::kWidth) {
        const int n = PlainRows<S>::lanes(end - i);
        Vec x = S::load(powers + i, n);
        x = S::select(S::less(S::load(logits + i, n), logit), S::zero(), x);
        x = S::select(S::less(x, power), S::zero(), x);
        S::store(powers + i, x, n);
        sum = S::add(sum, x);
      }
      *sums++ = S::reduce_add(sum);
    }
  }
};

}  // namespace quire
