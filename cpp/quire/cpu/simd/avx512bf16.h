// The vocabulary on AVX-512 with BF16, VNNI and VBMI: AVX-512, dot products of pairs, of bfloat16
// and of whole numbers, and tables of bytes.
#pragma once

#include "quire/cpu/simd/avx512.h"

namespace quire {

struct Avx512Bf16 : Avx512 {
  static constexpr bool kDotsBFloat16 = true;

  // sum + the products of the pairs in each lane (load_bits). Products are exact; the instruction
  // takes subnormal numbers for zero.
  static Vec dot(Vec sum, Vec a, Vec b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }

  using Avx512::pair_up;
  static Ints dot(Ints sum, Ints a, Ints b) { return _mm512_dpwssd_epi32(sum, a, b); }

  // Stores the nearest bfloat16s, and returns them as floats; subnormal numbers become zero.
  static Vec store_rounded(BFloat16* p, Vec x) {
    const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }

  // Elements of two rows in pairs, in the order of load_pair: lo the even ones, hi the odd ones.
  static Pair pair_up(Vec a, Vec b) {
    const __m512i x = _mm512_castps_si512(a);
    const __m512i y = _mm512_castps_si512(b);
    const __m512i even = _mm512_set1_epi32(0xffff);
    constexpr int kAnd = 0xea;     // (even & x) | y << 16
    constexpr int kAndNot = 0xae;  // (~even & y) | x >> 16
    return {
        _mm512_castsi512_ps(_mm512_ternarylogic_epi32(even, x, _mm512_slli_epi32(y, 16), kAnd)),
        _mm512_castsi512_ps(_mm512_ternarylogic_epi32(even, y, _mm512_srli_epi32(x, 16), kAndNot))};
  }
};

}  // namespace quire
