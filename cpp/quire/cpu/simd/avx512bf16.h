// The vocabulary on AVX-512 with BF16, VNNI and VBMI: AVX-512, dot products of pairs, of bfloat16
// and of whole numbers, and tables of bytes.
#pragma once

#include "quire/cpu/simd/avx512.h"

namespace quire {

// A byte, from bit `shift` on, of the bfloat16 that each magnitude of a float8 is.
struct Avx512Bf16Table {
  alignas(64) std::uint8_t bytes[128];

  constexpr explicit Avx512Bf16Table(int shift) : bytes{} {
    for (unsigned i = 0; i < 128; ++i) {
      unsigned bits = (i << 4) + (120u << 7);
      if (i == 0) bits = 0;
      if (i == 1) bits = 118u << 7;  // the subnormal numbers: i * 2^-9
      if (i == 2 || i == 3) bits = (119u << 7) + ((i & 1u) << 6);
      if (i >= 4 && i < 8) bits = (120u << 7) + ((i & 3u) << 5);
      if (i == 127) bits = 0x7fc0;
      bytes[i] = static_cast<std::uint8_t>(bits >> shift);
    }
  }
};

struct Avx512Bf16 : Avx512 {
  static constexpr bool kDotsBFloat16 = true;

  // sum + the products of the pairs in each lane (load_bits). Products are exact; the instruction
  // takes subnormal numbers for zero.
  static Vec dot(Vec sum, Vec a, Vec b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }

  using Avx512::pair_up;
  static Ints dot(Ints sum, Ints a, Ints b) {
    // GCC 12 copies the sum of its own intrinsic to and fro
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }

  // 64 float8s as bfloat16 pairs: two vectors, of every other eight elements. Exact.
  using Avx512::load_bits;
  struct Pairs64 {
    Vec lo, hi;
  };
  static Pairs64 load_pairs(const Float8E4M3* p) {
    __m512i x = _mm512_loadu_si512(p);
    asm("" : "+v"(x));  // GCC 12 loads it again for each use
    return widen_bytes(x);
  }
  static Pairs64 load_pairs(const Float8E4M3* p, int n) {
    return widen_bytes(_mm512_maskz_loadu_epi8((1ull << n) - 1ull, p));
  }

  // 2 * kWidth elements of two rows, or the first n, in pairs: in the order of load_pair.
  static Pair pair_up(const BFloat16* a, const BFloat16* b) {
    return pair_up(load_bits(a), load_bits(b));
  }
  static Pair pair_up(const BFloat16* a, const BFloat16* b, int n) {
    return pair_up(load_bits(a, n), load_bits(b, n));
  }
  static Pair pair_up(const Int8* a, const Int8* b) {
    return pair_up_floats(load_pair(a), load_pair(b));
  }
  static Pair pair_up(const Int8* a, const Int8* b, int n) {
    return pair_up_floats(load_pair(a, n), load_pair(b, n));
  }
  static Pair pair_up(const Float8E4M3* a, const Float8E4M3* b) {
    return pair_up(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)),
                   _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  }
  static Pair pair_up(const Float8E4M3* a, const Float8E4M3* b, int n) {
    const auto lanes = static_cast<__mmask32>((1u << n) - 1u);
    return pair_up(_mm256_maskz_loadu_epi8(lanes, a), _mm256_maskz_loadu_epi8(lanes, b));
  }

  // Stores the nearest bfloat16s, and returns them as floats; subnormal numbers become zero.
  static Vec store_rounded(BFloat16* p, Vec x) {
    const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }

  // 2 * kWidth elements as bfloat16s, in natural order. Exact.
  static Vec load_narrow(const BFloat16* p) { return load_bits(p); }
  static Vec load_narrow(const BFloat16* p, int n) { return load_bits(p, n); }
  static Vec load_narrow(const Int8* p) { return narrow({load(p), load(p + kWidth)}); }
  static Vec load_narrow(const Int8* p, int n) {
    return narrow({load(p, n), n > kWidth ? load(p + kWidth, n - kWidth) : zero()});
  }
  static Vec load_narrow(const Float8E4M3* p) {
    return narrow(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec load_narrow(const Float8E4M3* p, int n) {
    return narrow(_mm256_maskz_loadu_epi8(static_cast<__mmask32>((1u << n) - 1u), p));
  }

  // Floats of two rows that are bfloat16s, as pairs; of others, what lies above 16 bits.
  static Vec pair_up_floats(Vec a, Vec b) {
    constexpr int kAndNot = 0xae;  // (~low & b) | a >> 16
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xffff), _mm512_castps_si512(b),
                                  _mm512_srli_epi32(_mm512_castps_si512(a), 16), kAndNot));
  }

  static Pair pair_up_floats(Pair a, Pair b) {
    return {pair_up_floats(a.lo, b.lo), pair_up_floats(a.hi, b.hi)};
  }

  // Elements of two rows in pairs, in the order of load_pair: lo the even ones, hi the odd ones.
  static Pair pair_up(Vec a, Vec b) {
    const __m512i x = _mm512_castps_si512(a);
    const __m512i y = _mm512_castps_si512(b);
    constexpr int kAnd = 0xea;  // (even & x) | y << 16
    return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32(0xffff), x,
                                                          _mm512_slli_epi32(y, 16), kAnd)),
            pair_up_floats(a, b)};
  }

 private:
  static constexpr Avx512Bf16Table kLow{0};
  static constexpr Avx512Bf16Table kHigh{8};

  static Pairs64 widen_bytes(__m512i x) {
    const auto look_up = [x](const Avx512Bf16Table& table) {
      return _mm512_permutex2var_epi8(_mm512_load_si512(table.bytes), x,
                                      _mm512_load_si512(table.bytes + 64));
    };
    const __m512i low = look_up(kLow);
    // a | (b & c)
    const __m512i high = _mm512_ternarylogic_epi32(look_up(kHigh), x,
                                                   _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
    return {_mm512_castsi512_ps(_mm512_unpacklo_epi8(low, high)),
            _mm512_castsi512_ps(_mm512_unpackhi_epi8(low, high))};
  }

  static Vec narrow(Pair x) { return reinterpret_cast<Vec>(_mm512_cvtne2ps_pbh(x.hi, x.lo)); }
  static Vec narrow(__m256i x) {
    const __m512i eights = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3);
    return widen_bytes(_mm512_permutexvar_epi64(eights, _mm512_castsi256_si512(x))).lo;
  }

  static Pair pair_up(__m256i a, __m256i b) {
    struct alignas(64) Order {
      std::uint8_t bytes[64];
    };
    constexpr Order kAlternate = [] {
      Order order{};
      for (unsigned i = 0; i < 32; ++i) {
        order.bytes[2 * i] = static_cast<std::uint8_t>(i);
        order.bytes[2 * i + 1] = static_cast<std::uint8_t>(64 + i);
      }
      return order;
    }();
    const Pairs64 pairs = widen_bytes(_mm512_permutex2var_epi8(_mm512_castsi256_si512(a),
                                                               _mm512_loadu_si512(kAlternate.bytes),
                                                               _mm512_castsi256_si512(b)));
    return {pairs.lo, pairs.hi};
  }
};

}  // namespace quire
