// Functions of floats on a vocabulary.
#pragma once

namespace quire {

template <class S>
struct SimdMath {
  using Vec = typename S::Vec;

  // 2^x for x <= 126, within 2 units in the last place; 0 below -126. NaN stays NaN.
  //
  // Adding 1.5 * 2^23 + 127 rounds x to a whole number n and leaves n's biased exponent in the
  // lowest bits. On what remains, [-1/2, 1/2], 2^r is the polynomial of degree 6 with p(0) = 1
  // whose largest relative error is smallest: 2.0e-9 before rounding.
  static Vec exp2(Vec x) {
    const Vec clamped = S::max(S::set1(-126.0f), x);
    const Vec magic = S::set1(12582912.0f + 127.0f);
    const Vec shifted = S::add(clamped, magic);
    const Vec r = S::sub(clamped, S::sub(shifted, magic));
    Vec p = S::set1(1.535336201e-4f);
    p = S::fma(p, r, S::set1(1.339887445e-3f));
    p = S::fma(p, r, S::set1(9.618437358e-3f));
    p = S::fma(p, r, S::set1(5.550332471e-2f));
    p = S::fma(p, r, S::set1(2.402264791e-1f));
    p = S::fma(p, r, S::set1(6.931472029e-1f));
    p = S::fma(p, r, S::set1(1.0f));
    const Vec power = S::mul(p, S::shift_to_exponent(shifted));
    return S::select(S::less(x, S::set1(-126.0f)), S::zero(), power);
  }

  // tanh(x), relative error below 3e-7. NaN stays NaN.
  //
  // |x| < 0.625: x + x^3 p(x^2), p fitted for the smallest largest relative error (4.4e-9 before
  // rounding); else 1 - 2 / (e^(2|x|) + 1), which is 1 in float32 from |x| = 9.1 on.
  static Vec tanh(Vec x) {
    const Vec zero = S::zero();
    const Vec magnitude = S::max(S::sub(zero, x), x);
    const Vec square = S::mul(x, x);
    Vec p = S::set1(-5.704986524e-3f);
    p = S::fma(p, square, S::set1(2.063908684e-2f));
    p = S::fma(p, square, S::set1(-5.373971496e-2f));
    p = S::fma(p, square, S::set1(1.333144220e-1f));
    p = S::fma(p, square, S::set1(-3.333328194e-1f));
    const Vec small = S::fma(S::mul(p, square), x, x);

    const Vec one = S::set1(1.0f);
    const Vec doubled = S::mul(S::min(S::set1(10.0f), magnitude), S::set1(2.885390082f));
    const Vec large = S::sub(one, S::div(S::set1(2.0f), S::add(exp2(doubled), one)));
    return S::select(S::less(magnitude, S::set1(0.625f)), small,
                     S::select(S::less(x, zero), S::sub(zero, large), large));
  }
};

}  // namespace quire
