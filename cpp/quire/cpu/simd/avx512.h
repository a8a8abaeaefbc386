// The vocabulary on AVX-512 (F, BW, DQ, VL). simd/scalar.h says what each word means.
#pragma once

#include <immintrin.h>

#include "quire/base/dtype.h"
#include "quire/format/int4_grid.h"

namespace quire {

struct Avx512 {
  static constexpr int kWidth = 16;
  static constexpr int kAccumulators = 16;
  static constexpr int kRowGroups[] = {12, 8, 4};
  static constexpr bool kDotsBFloat16 = false;
  static constexpr bool kDotsInt16 = true;

  using Vec = __m512;
  using Mask = __mmask16;
  struct Pair {
    Vec lo, hi;
  };

  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec set1(float x) { return _mm512_set1_ps(x); }
  static Vec iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static Vec shift_to_exponent(Vec x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23));
  }

  static Mask lanes(int begin, int end) {
    const auto below = [](int n) -> unsigned {
      return n <= 0 ? 0u : n >= kWidth ? 0xffffu : (1u << n) - 1u;
    };
    return static_cast<Mask>(below(end) & ~below(begin));
  }
  static Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static bool any(Mask mask) { return mask != 0; }
  static Vec select(Mask mask, Vec a, Vec b) { return _mm512_mask_blend_ps(mask, b, a); }

  static float reduce_max(Vec x) {
    return reduce(x, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
  }
  static float reduce_add(Vec x) {
    return reduce(x, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
  }

  // Halves of two vectors are added crosswise, which halves their number four times: 16, 8, 4,
  // 2, 1.
  static Vec transpose_add(const Vec* v) {
    return transpose_add(v, [](Vec a, Vec b) { return add(a, b); });
  }
  template <class Add>
  static Vec transpose_add(const Vec* v, Add add) {
    Vec b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      b[i] = add(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]),
                 _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    }
    Vec c[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      c[i] = add(_mm512_shuffle_ps(b[2 * i], b[2 * i + 1], _MM_SHUFFLE(1, 0, 1, 0)),
                 _mm512_shuffle_ps(b[2 * i], b[2 * i + 1], _MM_SHUFFLE(3, 2, 3, 2)));
    }
    const Vec d0 = add(_mm512_shuffle_f32x4(c[0], c[1], _MM_SHUFFLE(2, 0, 2, 0)),
                       _mm512_shuffle_f32x4(c[0], c[1], _MM_SHUFFLE(3, 1, 3, 1)));
    const Vec d1 = add(_mm512_shuffle_f32x4(c[2], c[3], _MM_SHUFFLE(2, 0, 2, 0)),
                       _mm512_shuffle_f32x4(c[2], c[3], _MM_SHUFFLE(3, 1, 3, 1)));
    return add(_mm512_shuffle_f32x4(d0, d1, _MM_SHUFFLE(2, 0, 2, 0)),
               _mm512_shuffle_f32x4(d0, d1, _MM_SHUFFLE(3, 1, 3, 1)));
  }

  // Within quarters of 128 bits, 4 by 4; then the quarters change places, 4 by 4 as well. Inlined,
  // as in the kernels of a set that is derived from this one it would not carry that one's name.
  [[gnu::always_inline]] static void transpose(Vec* v) {
    Vec b[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      const Vec a0 = _mm512_unpacklo_ps(v[i], v[i + 1]);
      const Vec a1 = _mm512_unpackhi_ps(v[i], v[i + 1]);
      const Vec a2 = _mm512_unpacklo_ps(v[i + 2], v[i + 3]);
      const Vec a3 = _mm512_unpackhi_ps(v[i + 2], v[i + 3]);
      b[i] = _mm512_shuffle_ps(a0, a2, _MM_SHUFFLE(1, 0, 1, 0));
      b[i + 1] = _mm512_shuffle_ps(a0, a2, _MM_SHUFFLE(3, 2, 3, 2));
      b[i + 2] = _mm512_shuffle_ps(a1, a3, _MM_SHUFFLE(1, 0, 1, 0));
      b[i + 3] = _mm512_shuffle_ps(a1, a3, _MM_SHUFFLE(3, 2, 3, 2));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec c0 = _mm512_shuffle_f32x4(b[i], b[i + 4], _MM_SHUFFLE(2, 0, 2, 0));
      const Vec c1 = _mm512_shuffle_f32x4(b[i], b[i + 4], _MM_SHUFFLE(3, 1, 3, 1));
      const Vec c2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], _MM_SHUFFLE(2, 0, 2, 0));
      const Vec c3 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], _MM_SHUFFLE(3, 1, 3, 1));
      v[i] = _mm512_shuffle_f32x4(c0, c2, _MM_SHUFFLE(2, 0, 2, 0));
      v[i + 8] = _mm512_shuffle_f32x4(c0, c2, _MM_SHUFFLE(3, 1, 3, 1));
      v[i + 4] = _mm512_shuffle_f32x4(c1, c3, _MM_SHUFFLE(2, 0, 2, 0));
      v[i + 12] = _mm512_shuffle_f32x4(c1, c3, _MM_SHUFFLE(3, 1, 3, 1));
    }
  }

  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load(const Float16* p) { return from_float16(_mm256_loadu_si256(as_256(p))); }
  static Vec load(const BFloat16* p) { return from_bfloat16(_mm256_loadu_si256(as_256(p))); }
  static Vec load(const Int8* p) { return from_int8(_mm_loadu_si128(as_128(p))); }
  static Vec load(const Float8E4M3* p) { return from_float8(_mm_loadu_si128(as_128(p))); }
  static Vec load(const Float8E5M2* p) { return from_upper_bytes(_mm_loadu_si128(as_128(p))); }
  static Vec load(const Float8E5M2* p, int n) {
    return from_upper_bytes(_mm_maskz_loadu_epi8(lanes(0, n), p));
  }
  static Vec load(const Int8* p, int n) { return from_int8(_mm_maskz_loadu_epi8(lanes(0, n), p)); }
  static Vec load(const Float8E4M3* p, int n) {
    return from_float8(_mm_maskz_loadu_epi8(lanes(0, n), p));
  }
  static Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(lanes(0, n), p); }
  static Vec load(const Float16* p, int n) {
    return from_float16(_mm256_maskz_loadu_epi16(lanes(0, n), p));
  }
  static Vec load(const BFloat16* p, int n) {
    return from_bfloat16(_mm256_maskz_loadu_epi16(lanes(0, n), p));
  }

  static void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
  static void store(Float16* p, Vec x) { _mm256_storeu_si256(as_256(p), to_float16(x)); }
  static void store(BFloat16* p, Vec x) { _mm256_storeu_si256(as_256(p), to_bfloat16(x)); }
  static void store(Int8* p, Vec x) { _mm_storeu_si128(as_128(p), narrow(_mm512_cvtps_epi32(x))); }
  static void store(Float8E4M3* p, Vec x) {
    _mm_storeu_si128(as_128(p), narrow(to_float8<Float8E4M3>(x)));
  }
  static void store(Float8E5M2* p, Vec x) {
    _mm_storeu_si128(as_128(p), narrow(to_float8<Float8E5M2>(x)));
  }
  static void store(Int8* p, Vec x, int n) {
    _mm512_mask_cvtepi32_storeu_epi8(p, lanes(0, n), _mm512_cvtps_epi32(x));
  }
  static void store(Float8E4M3* p, Vec x, int n) {
    _mm512_mask_cvtepi32_storeu_epi8(p, lanes(0, n), to_float8<Float8E4M3>(x));
  }
  static void store(Float8E5M2* p, Vec x, int n) {
    _mm512_mask_cvtepi32_storeu_epi8(p, lanes(0, n), to_float8<Float8E5M2>(x));
  }
  static void store(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, lanes(0, n), x); }
  static void store(Float16* p, Vec x, int n) {
    _mm256_mask_storeu_epi16(p, lanes(0, n), to_float16(x));
  }
  static void store(BFloat16* p, Vec x, int n) {
    _mm256_mask_storeu_epi16(p, lanes(0, n), to_bfloat16(x));
  }

  // bfloat16 pairs hold the even elements, then the odd ones: a shift and a mask make them.
  static Pair load_pair(const float* p) { return {load(p), load(p + kWidth)}; }
  static Pair load_pair(const Float16* p) { return {load(p), load(p + kWidth)}; }
  static Pair load_pair(const Float8E5M2* p) { return {load(p), load(p + kWidth)}; }
  static Pair load_pair(const BFloat16* p) { return widen(load_bits(p)); }
  // int8 and float8_e4m3fn pairs hold every other four columns, then the others: the order of
  // pair_up.
  static Pair load_pair(const Int8* p) { return apart(_mm256_loadu_si256(as_256(p)), from_int8); }
  static Pair load_pair(const Int8* p, int n) {
    return apart(_mm256_maskz_loadu_epi8(static_cast<__mmask32>((1u << n) - 1u), p), from_int8);
  }
  static Pair load_pair(const Float8E4M3* p) {
    return apart(_mm256_loadu_si256(as_256(p)), from_float8);
  }
  static Pair load_pair(const Float8E4M3* p, int n) {
    return apart(_mm256_maskz_loadu_epi8(static_cast<__mmask32>((1u << n) - 1u), p), from_float8);
  }
  static Pair load_pair(const BFloat16* p, int n) { return widen(load_bits(p, n)); }
  template <class T>
  static Pair load_pair(const T* p, int n) {
    return {load(p, n), n > kWidth ? load(p + kWidth, n - kWidth) : zero()};
  }

  template <class T>
  static Pair from_natural(Pair x) {
    return x;
  }
  template <class T>
  static Pair to_natural(Pair x) {
    return x;
  }

  static Pair load_int4(const std::byte* p) { return from_int4(_mm_loadu_si128(as_128(p))); }
  static Pair load_int4(const std::byte* p, int n) {
    return from_int4(_mm_maskz_loadu_epi8(lanes(0, n / 2), p));
  }
  static void store_int4(std::byte* p, Pair x) { _mm_storeu_si128(as_128(p), narrow(to_int4(x))); }
  static void store_int4(std::byte* p, Pair x, int n) {
    _mm512_mask_cvtepi32_storeu_epi8(p, lanes(0, n / 2), to_int4(x));
  }
  static Vec load_nibbles(const std::byte* p, int shift) {
    const __m512i moved = _mm512_srlv_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(shift));
    return _mm512_cvtepi32_ps(_mm512_and_si512(moved, _mm512_set1_epi32(15)));
  }
  static Pair load_grids(const Int4Grid* p) { return from_grids(_mm512_loadu_si512(p)); }
  static Pair load_grids(const Int4Grid* p, int n) {
    return from_grids(_mm512_maskz_loadu_epi32(lanes(0, n), p));
  }

  struct Grids {
    Pair even, odd;
  };
  static Grids load_grids_apart(const Int4Grid* p) {
    return from_grids(_mm512_loadu_si512(p), _mm512_loadu_si512(p + kWidth));
  }
  static Grids load_grids_apart(const Int4Grid* p, int n) {
    return from_grids(_mm512_maskz_loadu_epi32(lanes(0, n), p),
                      _mm512_maskz_loadu_epi32(lanes(0, n - kWidth), p + kWidth));
  }

  static Vec load_bits(const BFloat16* p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
  static Vec load_bits(const BFloat16* p, int n) {
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((1u << n) - 1u, p));
  }
  static Pair widen(Vec pairs) {
    const __m512i bits = _mm512_castps_si512(pairs);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
  }

  // Whole numbers, as in simd/avx2.h.
  using Ints = __m512i;
  static Ints zero_ints() { return _mm512_setzero_si512(); }
  static Ints load_ints(const std::int16_t* p) { return _mm512_loadu_si512(p); }
  static Ints load_ints(const Int8* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(as_256(p)));
  }
  static Ints load_ints(const Int8* p, int n) {
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(static_cast<__mmask32>((1u << n) - 1u), p));
  }
  static Ints load_bytes(const std::byte* p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(as_256(p)));
  }
  static Ints load_bytes(const std::byte* p, int n) {
    return _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(static_cast<__mmask32>((1u << n) - 1u), p));
  }
  static Ints lower_half(Ints bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi16(15)); }
  static Ints upper_half(Ints bytes) { return _mm512_srli_epi16(bytes, 4); }
  static Ints set1_ints(int x) { return _mm512_set1_epi32(x); }
  static Ints set1_pair(const std::int16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static void pair_up(Ints a, Ints b, Ints& lo, Ints& hi) {
    lo = _mm512_unpacklo_epi16(a, b);
    hi = _mm512_unpackhi_epi16(a, b);
  }
  static void halves_to_natural(Vec (&v)[4]) {
    const Vec a0 = _mm512_unpacklo_ps(v[0], v[2]);
    const Vec a1 = _mm512_unpackhi_ps(v[0], v[2]);
    const Vec a2 = _mm512_unpacklo_ps(v[1], v[3]);
    const Vec a3 = _mm512_unpackhi_ps(v[1], v[3]);
    const Vec c0 = _mm512_shuffle_f32x4(a0, a1, _MM_SHUFFLE(2, 0, 2, 0));
    const Vec c1 = _mm512_shuffle_f32x4(a0, a1, _MM_SHUFFLE(3, 1, 3, 1));
    const Vec c2 = _mm512_shuffle_f32x4(a2, a3, _MM_SHUFFLE(2, 0, 2, 0));
    const Vec c3 = _mm512_shuffle_f32x4(a2, a3, _MM_SHUFFLE(3, 1, 3, 1));
    v[0] = _mm512_shuffle_f32x4(c0, c2, _MM_SHUFFLE(2, 0, 2, 0));
    v[1] = _mm512_shuffle_f32x4(c1, c3, _MM_SHUFFLE(2, 0, 2, 0));
    v[2] = _mm512_shuffle_f32x4(c0, c2, _MM_SHUFFLE(3, 1, 3, 1));
    v[3] = _mm512_shuffle_f32x4(c1, c3, _MM_SHUFFLE(3, 1, 3, 1));
  }
  static Ints dot(Ints sum, Ints a, Ints b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
  }
  static Ints to_ints(Vec a, Vec b) {  // the lower words of both
    const __m512i order = _mm512_slli_epi16(word_numbers(), 1);
    return _mm512_permutex2var_epi16(_mm512_cvtps_epi32(a), order, _mm512_cvtps_epi32(b));
  }
  static void store(std::int16_t* p, Ints x) { _mm512_storeu_si512(p, x); }
  static Vec to_floats(Ints sums) { return _mm512_cvtepi32_ps(sums); }
  // Lane i: the sum of sums[i]'s lanes.
  static Vec transpose_add(const Ints* sums) {
    Vec v[kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) v[i] = _mm512_castsi512_ps(sums[i]);
    return to_floats(_mm512_castps_si512(transpose_add(v, [](Vec a, Vec b) {
      return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    })));
  }
  static void store(std::int16_t* p, Vec x) {
    _mm256_storeu_si256(as_256(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
  }

  static void prefetch(const void* p) { _mm_prefetch(p, _MM_HINT_T1); }

 private:
  static const __m256i* as_256(const void* p) { return static_cast<const __m256i*>(p); }
  static __m256i* as_256(void* p) { return static_cast<__m256i*>(p); }

  template <class Widen>
  static Pair apart(__m256i x, Widen widen) {
    const __m256i fours = _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
    return {widen(_mm256_castsi256_si128(fours)), widen(_mm256_extracti128_si256(fours, 1))};
  }
  static const __m128i* as_128(const void* p) { return static_cast<const __m128i*>(p); }
  static __m128i* as_128(void* p) { return static_cast<__m128i*>(p); }
  static __m128i narrow(__m512i x) { return _mm512_cvtepi32_epi8(x); }  // the lowest bytes
  template <class F>
  static __m512i to_float8(Vec x) {  // as simd/scalar.h does, a byte in each lane
    using Rounding = Float8Rounding<F>;
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));
    const __m512i m = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    const __m512i ties =
        _mm512_and_si512(_mm512_srli_epi32(m, Rounding::kDropped), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(m, _mm512_add_epi32(ties, _mm512_set1_epi32(Rounding::kHalf)));
    const __m512i normal = _mm512_sub_epi32(_mm512_srli_epi32(rounded, Rounding::kDropped),
                                            _mm512_set1_epi32(Rounding::kRebias));
    const Vec shift = set1(Rounding::kShift);
    const __m512i subnormal = _mm512_sub_epi32(
        _mm512_castps_si512(add(_mm512_castsi512_ps(m), shift)), _mm512_castps_si512(shift));
    const Mask is_subnormal =
        _mm512_cmplt_epi32_mask(m, _mm512_set1_epi32(Rounding::kSmallestNormal));
    return _mm512_or_si512(sign, _mm512_mask_blend_epi32(is_subnormal, normal, subnormal));
  }
  static __m512i to_int4(Pair x) {  // likewise
    const auto code = [](Vec v) {
      const __m512i n = _mm512_cvtps_epi32(max(set1(-8.0f), min(set1(7.0f), v)));
      return _mm512_add_epi32(n, _mm512_set1_epi32(8));
    };
    return _mm512_or_si512(code(x.lo), _mm512_slli_epi32(code(x.hi), 4));
  }
  static Vec from_int8(__m128i x) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)); }
  static Pair from_grids(__m512i x) {
    return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)),
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16)))};
  }
  static Grids from_grids(__m512i a, __m512i b) {
    // words 4 i, then 4 i + 2, of both
    const __m512i fours = _mm512_slli_epi16(word_numbers(), 2);
    const __m512i order = _mm512_add_epi16(_mm512_and_si512(fours, _mm512_set1_epi16(63)),
                                           _mm512_slli_epi16(_mm512_srli_epi16(fours, 6), 1));
    const __m512i steps = _mm512_permutex2var_epi16(a, order, b);
    const __m512i middles =
        _mm512_permutex2var_epi16(a, _mm512_add_epi16(order, _mm512_set1_epi16(1)), b);
    const auto lower = [](__m512i x) { return _mm512_cvtph_ps(_mm512_castsi512_si256(x)); };
    const auto upper = [](__m512i x) { return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, 1)); };
    return {{lower(steps), lower(middles)}, {upper(steps), upper(middles)}};
  }
  static __m512i word_numbers() {
    struct alignas(64) Numbers {
      std::uint16_t words[32];
    };
    static constexpr Numbers kNumbers = [] {
      Numbers numbers{};
      for (unsigned i = 0; i < 32; ++i) numbers.words[i] = static_cast<std::uint16_t>(i);
      return numbers;
    }();
    return _mm512_load_si512(kNumbers.words);
  }
  static Pair from_int4(__m128i x) {
    const __m128i half = _mm_set1_epi8(15);
    const __m128i even = _mm_and_si128(x, half);
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(x, 4), half);
    const __m128i eight = _mm_set1_epi8(8);
    return {from_int8(_mm_sub_epi8(_mm_unpacklo_epi8(even, odd), eight)),
            from_int8(_mm_sub_epi8(_mm_unpackhi_epi8(even, odd), eight))};
  }
  // A float8 with its exponent and mantissa where a float16 has them is one 2^8 times smaller.
  static Vec from_float8(__m128i x) {
    const __m256i magnitude = _mm256_set1_epi16(0x3f80);
    const __m256i moved = _mm256_slli_epi16(_mm256_cvtepi8_epi16(x), 7);
    const __m256i bits = _mm256_and_si256(moved, _mm256_set1_epi16(static_cast<short>(0xbf80)));
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(_mm256_and_si256(bits, magnitude), magnitude);
    const __m256i half = _mm256_mask_blend_epi16(nan, bits, _mm256_set1_epi16(0x7e00));
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
  }
  static Vec from_upper_bytes(__m128i x) {  // of float16s
    return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(x), 8));
  }
  static Vec from_float16(__m256i bits) { return _mm512_cvtph_ps(bits); }
  static Vec from_bfloat16(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m256i to_float16(Vec x) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static __m256i to_bfloat16(Vec x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i ties = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(ties, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const Mask nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16));
  }

  template <class Op>
  static float reduce(Vec x, Op op) {
    const __m128 a = op(op(_mm512_extractf32x4_ps(x, 0), _mm512_extractf32x4_ps(x, 1)),
                        op(_mm512_extractf32x4_ps(x, 2), _mm512_extractf32x4_ps(x, 3)));
    const __m128 b = op(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(op(b, _mm_shuffle_ps(b, b, 1)));
  }
};

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
