// Activations on a vocabulary.
#pragma once

#include "quire/cpu/simd_math.h"

namespace quire {

template <class S>
struct Activations {
  using Vec = typename S::Vec;

  // x / (1 + e^-x)
  static Vec silu(Vec x) { return over_one_and_power(x, S::mul(x, S::set1(-1.44269504f))); }

  // 1 / (1 + e^-x)
  static Vec sigmoid(Vec x) {
    const Vec power = SimdMath<S>::exp2(S::min(S::set1(126.0f), S::mul(x, S::set1(-1.44269504f))));
    return S::div(S::set1(1.0f), S::add(S::set1(1.0f), power));
  }

  // x / (1 + e^-2u) is x / 2 * (1 + tanh(u)), without its cancellation where u is far below 0.
  static Vec gelu_tanh(Vec x) {
    const Vec square = S::mul(x, x);  // the constants are those of u, times -2 log2(e)
    const Vec inner = S::fma(square, S::set1(-0.10294324f), S::set1(-2.3022082f));
    return over_one_and_power(x, S::mul(x, inner));
  }

  // x times the normal distribution's integral up to x, erfc(-x / sqrt(2)) / 2.
  //
  // erfc(z) = e^(-z^2) * t * p(t) with t = 1 / (1 + 0.4 z), for z from 0 to 10.5, and p fitted for
  // the smallest largest relative error: 9.0e-9 before rounding. Beyond, e^(-z^2) is 0 in float32.
  static Vec gelu(Vec x) {
    const Vec zero = S::zero();
    const Vec one = S::set1(1.0f);
    const Vec z = S::mul(S::max(S::sub(zero, x), x), S::set1(0.70710678f));
    const Vec t = S::div(one, S::fma(z, S::set1(0.4f), one));
    Vec p = S::set1(-2.863680233e-2f);
    p = S::fma(p, t, S::set1(1.928218879e-1f));
    p = S::fma(p, t, S::set1(-4.866288092e-1f));
    p = S::fma(p, t, S::set1(5.312273582e-1f));
    p = S::fma(p, t, S::set1(-2.709238989e-1f));
    p = S::fma(p, t, S::set1(2.648742880e-1f));
    p = S::fma(p, t, S::set1(1.321562640e-1f));
    p = S::fma(p, t, S::set1(2.143907769e-1f));
    p = S::fma(p, t, S::set1(2.250152688e-1f));
    p = S::fma(p, t, S::set1(2.257036756e-1f));
    // z^2 is x^2 / 2, and what its rounding has lost
    const Vec square = S::mul(x, S::mul(x, S::set1(-0.5f)));
    const Vec lost = S::fma(x, S::mul(x, S::set1(-0.5f)), S::sub(zero, square));
    const Vec power = exp(square, lost);
    const Vec tail = S::mul(S::mul(power, t), S::mul(p, S::set1(0.5f)));
    return S::mul(x, S::select(S::less(x, zero), tail, S::sub(one, tail)));
  }

 private:
  // x / (1 + 2^exponent), for exponents that are above 126 only where x is below -8. There powers
  // end at 2^126, and x at -128, and what should be nearer to 0 is within 2e-36 of it.
  static Vec over_one_and_power(Vec x, Vec exponent) {
    const Vec power = SimdMath<S>::exp2(S::min(S::set1(126.0f), exponent));
    return S::div(S::max(S::set1(-128.0f), x), S::add(S::set1(1.0f), power));
  }

  // e^(x + rest) for x <= 87 and a small rest, 0 where it is below 2^-126; NaN stays NaN. The
  // rounding of x * log2(e), which may be large where the power is small, is made good.
  static Vec exp(Vec x, Vec rest) {
    const Vec log2_of_e = S::set1(1.44269504f);
    const Vec exponent = S::mul(x, log2_of_e);
    Vec error = S::fma(x, log2_of_e, S::sub(S::zero(), exponent));
    error = S::fma(x, S::set1(1.92596299e-8f), error);  // what log2_of_e lacks
    const Vec power = SimdMath<S>::exp2(exponent);
    // infinity - infinity is no number, of a power that is 0 already
    const Vec relative = S::fma(error, S::set1(0.69314718f), rest);
    return S::select(S::less(S::zero(), power), S::fma(power, relative, power), power);
  }
};

}  // namespace quire
