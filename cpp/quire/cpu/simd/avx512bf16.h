// The vocabulary on AVX-512 with BF16: AVX-512, and a dot product of bfloat16 pairs.
#pragma once

#include "quire/cpu/simd/avx512.h"

namespace quire {

struct Avx512Bf16 : Avx512 {
  static constexpr bool kDotsBFloat16 = true;

  // 2 * kWidth bfloat16 elements as they lie in memory.
  using BFloat16s = __m512i;
  static BFloat16s load_bfloat16s(const BFloat16* p) { return _mm512_loadu_si512(p); }
  static BFloat16s load_bfloat16s(const BFloat16* p, int n) {
    return _mm512_maskz_loadu_epi16((1u << n) - 1u, p);
  }

  // sum + the products of neighbouring elements. Products are exact; the instruction takes
  // subnormal numbers for zero.
  static Vec dot(Vec sum, BFloat16s a, BFloat16s b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

}  // namespace quire
