// The orders of lanes in which AVX-512 loads pairs, and the natural one: the end of simd/avx512.h,
// which includes it.
#pragma once

#include "quire/cpu/simd/avx512.h"

namespace quire {

template <>
inline Avx512::Pair Avx512::from_natural<BFloat16>(Pair x) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return {_mm512_permutex2var_ps(x.lo, even, x.hi), _mm512_permutex2var_ps(x.lo, odd, x.hi)};
}

template <>
inline Avx512::Pair Avx512::to_natural<BFloat16>(Pair x) {
  const __m512i lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i hi = _mm512_add_epi32(lo, _mm512_set1_epi32(8));
  return {_mm512_permutex2var_ps(x.lo, lo, x.hi), _mm512_permutex2var_ps(x.lo, hi, x.hi)};
}

template <>
inline Avx512::Pair Avx512::from_natural<Int8>(Pair x) {
  return {_mm512_shuffle_f32x4(x.lo, x.hi, _MM_SHUFFLE(2, 0, 2, 0)),
          _mm512_shuffle_f32x4(x.lo, x.hi, _MM_SHUFFLE(3, 1, 3, 1))};
}

template <>
inline Avx512::Pair Avx512::to_natural<Int8>(Pair x) {
  const auto alternate = [](Vec v) { return _mm512_shuffle_f32x4(v, v, _MM_SHUFFLE(3, 1, 2, 0)); };
  return {alternate(_mm512_shuffle_f32x4(x.lo, x.hi, _MM_SHUFFLE(1, 0, 1, 0))),
          alternate(_mm512_shuffle_f32x4(x.lo, x.hi, _MM_SHUFFLE(3, 2, 3, 2)))};
}

template <>
inline Avx512::Pair Avx512::from_natural<Float8E4M3>(Pair x) {
  return from_natural<Int8>(x);
}

template <>
inline Avx512::Pair Avx512::to_natural<Float8E4M3>(Pair x) {
  return to_natural<Int8>(x);
}

}  // namespace quire
