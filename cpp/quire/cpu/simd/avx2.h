// The vocabulary on AVX2, FMA and F16C. simd/scalar.h says what each word means.
#pragma once

#include <immintrin.h>

#include "quire/base/dtype.h"
#include "quire/format/int4_grid.h"

namespace quire {

struct Avx2 {
  static constexpr int kWidth = 8;
  static constexpr int kAccumulators = 8;
  static constexpr int kRowGroups[] = {6, 4};
  static constexpr bool kDotsBFloat16 = false;
  static constexpr bool kDotsInt16 = true;

  using Vec = __m256;
  using Mask = __m256;
  struct Pair {
    Vec lo, hi;
  };

  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec set1(float x) { return _mm256_set1_ps(x); }
  static Vec iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
  static Vec shift_to_exponent(Vec x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23));
  }

  static Mask lanes(int begin, int end) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i past_begin = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1));
    const __m256i before_end = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane);
    return _mm256_castsi256_ps(_mm256_and_si256(past_begin, before_end));
  }
  static Mask less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static bool any(Mask mask) { return _mm256_movemask_ps(mask) != 0; }
  static Vec select(Mask mask, Vec a, Vec b) { return _mm256_blendv_ps(b, a, mask); }

  static float reduce_max(Vec x) {
    return reduce(x, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
  }
  static float reduce_add(Vec x) {
    return reduce(x, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
  }

  static Vec transpose_add(const Vec* v) {
    const Vec a0 = _mm256_hadd_ps(v[0], v[1]);
    const Vec a1 = _mm256_hadd_ps(v[2], v[3]);
    const Vec a2 = _mm256_hadd_ps(v[4], v[5]);
    const Vec a3 = _mm256_hadd_ps(v[6], v[7]);
    const Vec b0 = _mm256_hadd_ps(a0, a1);
    const Vec b1 = _mm256_hadd_ps(a2, a3);
    return add(_mm256_permute2f128_ps(b0, b1, 0x20), _mm256_permute2f128_ps(b0, b1, 0x31));
  }

  // Pairs, then quads of rows change places within halves of 128 bits; then the halves do.
  static void transpose(Vec* v) {
    Vec b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 4) {
      const Vec a0 = _mm256_unpacklo_ps(v[i], v[i + 1]);
      const Vec a1 = _mm256_unpackhi_ps(v[i], v[i + 1]);
      const Vec a2 = _mm256_unpacklo_ps(v[i + 2], v[i + 3]);
      const Vec a3 = _mm256_unpackhi_ps(v[i + 2], v[i + 3]);
      b[i] = _mm256_shuffle_ps(a0, a2, _MM_SHUFFLE(1, 0, 1, 0));
      b[i + 1] = _mm256_shuffle_ps(a0, a2, _MM_SHUFFLE(3, 2, 3, 2));
      b[i + 2] = _mm256_shuffle_ps(a1, a3, _MM_SHUFFLE(1, 0, 1, 0));
      b[i + 3] = _mm256_shuffle_ps(a1, a3, _MM_SHUFFLE(3, 2, 3, 2));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
      v[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
  }

  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load(const Float16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(as_128(p))); }
  static Vec load(const BFloat16* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(as_128(p))), 16));
  }
  static Vec load(const Int8* p) { return from_int8(_mm_loadl_epi64(as_128(p))); }
  // A float8 with its exponent and mantissa where a float16 has them is one 2^8 times smaller.
  static Vec load(const Float8E4M3* p) {
    const __m128i magnitude = _mm_set1_epi16(0x3f80);
    const __m128i moved = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64(as_128(p))), 7);
    const __m128i bits = _mm_and_si128(moved, _mm_set1_epi16(static_cast<short>(0xbf80)));
    const __m128i nan = _mm_cmpeq_epi16(_mm_and_si128(bits, magnitude), magnitude);
    const __m128i half = _mm_or_si128(bits, _mm_and_si128(nan, _mm_set1_epi16(0x7e00)));
    return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
  }
  static Vec load(const Float8E5M2* p) {  // the upper bytes of float16s
    return _mm256_cvtph_ps(_mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64(as_128(p))));
  }
  static void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
  static void store(Float16* p, Vec x) {
    _mm_storeu_si128(as_128(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void store(BFloat16* p, Vec x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i ties = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(ties, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    _mm_storeu_si128(as_128(p),
                     narrow(_mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16)));
  }

  static void store(Int8* p, Vec x) {
    const __m256i n = _mm256_cvtps_epi32(x);
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
    _mm_storel_epi64(as_128(p), _mm_packs_epi16(words, words));
  }
  static void store(Float8E4M3* p, Vec x) { store_bytes(p, to_float8<Float8E4M3>(x)); }
  static void store(Float8E5M2* p, Vec x) { store_bytes(p, to_float8<Float8E5M2>(x)); }

  // A part of a row goes through a buffer: nothing outside the row is touched.
  template <class T>
  static Vec load(const T* p, int n) {
    T buffer[kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(T));
    return load(buffer);
  }
  template <class T>
  static void store(T* p, Vec x, int n) {
    T buffer[kWidth];
    store(buffer, x);
    __builtin_memcpy(p, buffer, static_cast<std::size_t>(n) * sizeof(T));
  }

  // bfloat16 pairs hold the even elements, then the odd ones: a shift and a mask make them.
  static Pair load_pair(const float* p) { return {load(p), load(p + kWidth)}; }
  static Pair load_pair(const Float16* p) { return {load(p), load(p + kWidth)}; }
  static Pair load_pair(const BFloat16* p) { return widen(load_bits(p)); }
  // int8 pairs hold columns 0-3 and 8-11, then 4-7 and 12-15: the order of pair_up.
  static Pair load_pair(const Int8* p) {
    const __m128i x = _mm_shuffle_epi32(_mm_loadu_si128(as_128(p)), _MM_SHUFFLE(3, 1, 2, 0));
    return {from_int8(x), from_int8(_mm_unpackhi_epi64(x, x))};
  }
  static Pair load_pair(const Float8E4M3* p) { return {load(p), load(p + kWidth)}; }
  static Pair load_pair(const Float8E5M2* p) { return {load(p), load(p + kWidth)}; }
  template <class T>
  static Pair load_pair(const T* p, int n) {
    T buffer[2 * kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(T));
    return load_pair(buffer);
  }

  template <class T>
  static Pair from_natural(Pair x) {
    return x;
  }
  template <class T>
  static Pair to_natural(Pair x) {
    return x;
  }

  static Pair load_int4(const std::byte* p) {
    const __m128i x = _mm_loadl_epi64(as_128(p));
    const __m128i half = _mm_set1_epi8(15);
    const __m128i natural = _mm_sub_epi8(
        _mm_unpacklo_epi8(_mm_and_si128(x, half), _mm_and_si128(_mm_srli_epi16(x, 4), half)),
        _mm_set1_epi8(8));
    return {from_int8(natural), from_int8(_mm_unpackhi_epi64(natural, natural))};
  }
  static Pair load_int4(const std::byte* p, int n) {
    std::byte buffer[kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n / 2));
    return load_int4(buffer);
  }
  static void store_int4(std::byte* p, Pair x) {
    const auto code = [](Vec v) {
      const __m256i n = _mm256_cvtps_epi32(max(set1(-8.0f), min(set1(7.0f), v)));
      return _mm256_add_epi32(n, _mm256_set1_epi32(8));
    };
    store_bytes(p, _mm256_or_si256(code(x.lo), _mm256_slli_epi32(code(x.hi), 4)));
  }
  static void store_int4(std::byte* p, Pair x, int n) {
    std::byte buffer[kWidth];
    store_int4(buffer, x);
    __builtin_memcpy(p, buffer, static_cast<std::size_t>(n / 2));
  }
  static Vec load_nibbles(const std::byte* p, int shift) {
    const __m256i moved =
        _mm256_srlv_epi32(_mm256_loadu_si256(as_256(p)), _mm256_set1_epi32(shift));
    return _mm256_cvtepi32_ps(_mm256_and_si256(moved, _mm256_set1_epi32(15)));
  }
  static Pair load_grids(const Int4Grid* p) { return from_grids(_mm256_loadu_si256(as_256(p))); }
  static Pair load_grids(const Int4Grid* p, int n) {
    Int4Grid buffer[kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(Int4Grid));
    return load_grids(buffer);
  }
  // Grids of 2 * kWidth elements, or n of them and 0: of the even ones, and of the odd ones.
  struct Grids {
    Pair even, odd;
  };
  static Grids load_grids_apart(const Int4Grid* p) {
    const auto* const bits = reinterpret_cast<const float*>(p);
    const Pair apart = even_and_odd({load(bits), load(bits + kWidth)});
    return {from_grids(_mm256_castps_si256(apart.lo)), from_grids(_mm256_castps_si256(apart.hi))};
  }
  static Grids load_grids_apart(const Int4Grid* p, int n) {
    Int4Grid buffer[2 * kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(Int4Grid));
    return load_grids_apart(buffer);
  }

  static Vec load_bits(const BFloat16* p) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  }
  static Vec load_bits(const BFloat16* p, int n) {
    BFloat16 buffer[2 * kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(BFloat16));
    return load_bits(buffer);
  }
  static Pair widen(Vec pairs) {
    const __m256i bits = _mm256_castps_si256(pairs);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)),
            _mm256_castsi256_ps(
                _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
  }

  // Whole numbers of 16 bits, 2 * kWidth of them, and sums of 32 bits, kWidth of them, of the
  // products of neighbours.
  using Ints = __m256i;
  static Ints zero_ints() { return _mm256_setzero_si256(); }
  static Ints load_ints(const std::int16_t* p) { return _mm256_loadu_si256(as_256(p)); }
  static Ints load_ints(const Int8* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(as_128(p))); }
  static Ints load_ints(const Int8* p, int n) {
    Int8 buffer[2 * kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n));
    return load_ints(buffer);
  }
  // Bytes, and what their lower and their upper halves are; or n of them, and 0.
  static Ints load_bytes(const std::byte* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(as_128(p)));
  }
  static Ints load_bytes(const std::byte* p, int n) {
    std::byte buffer[2 * kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n));
    return load_bytes(buffer);
  }
  static Ints lower_half(Ints bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi16(15)); }
  static Ints upper_half(Ints bytes) { return _mm256_srli_epi16(bytes, 4); }
  static Ints set1_ints(int x) { return _mm256_set1_epi32(x); }
  static Ints set1_pair(const std::int16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  // Elements of two rows as neighbours, in the order of load_pair(const Int8*).
  static void pair_up(Ints a, Ints b, Ints& lo, Ints& hi) {
    lo = _mm256_unpacklo_epi16(a, b);
    hi = _mm256_unpackhi_epi16(a, b);
  }
  // Sums of the lower halves of a pair_up, lo and hi, and of the upper ones: in natural order.
  static void halves_to_natural(Vec (&v)[4]) {
    const Vec a0 = _mm256_unpacklo_ps(v[0], v[2]);
    const Vec a1 = _mm256_unpackhi_ps(v[0], v[2]);
    const Vec a2 = _mm256_unpacklo_ps(v[1], v[3]);
    const Vec a3 = _mm256_unpackhi_ps(v[1], v[3]);
    v[0] = _mm256_permute2f128_ps(a0, a1, 0x20);
    v[1] = _mm256_permute2f128_ps(a2, a3, 0x20);
    v[2] = _mm256_permute2f128_ps(a0, a1, 0x31);
    v[3] = _mm256_permute2f128_ps(a2, a3, 0x31);
  }
  static Ints dot(Ints sum, Ints a, Ints b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }
  static Ints to_ints(Vec a, Vec b) {  // the nearest numbers, |x| < 32767.5
    const __m256i pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
    return _mm256_permute4x64_epi64(pairs, _MM_SHUFFLE(3, 1, 2, 0));
  }
  static void store(std::int16_t* p, Ints x) { _mm256_storeu_si256(as_256(p), x); }
  // Lane i: the sum of sums[i]'s lanes.
  static Vec transpose_add(const Ints* sums) {
    const Ints a0 = _mm256_hadd_epi32(sums[0], sums[1]);
    const Ints a1 = _mm256_hadd_epi32(sums[2], sums[3]);
    const Ints a2 = _mm256_hadd_epi32(sums[4], sums[5]);
    const Ints a3 = _mm256_hadd_epi32(sums[6], sums[7]);
    const Ints b0 = _mm256_hadd_epi32(a0, a1);
    const Ints b1 = _mm256_hadd_epi32(a2, a3);
    return to_floats(_mm256_add_epi32(_mm256_permute2x128_si256(b0, b1, 0x20),
                                      _mm256_permute2x128_si256(b0, b1, 0x31)));
  }
  static Vec to_floats(Ints sums) { return _mm256_cvtepi32_ps(sums); }
  static void store(std::int16_t* p, Vec x) {  // the nearest numbers, |x| < 32767.5
    const __m256i n = _mm256_cvtps_epi32(x);
    _mm_storeu_si128(as_128(p),
                     _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1)));
  }

  static void prefetch(const void* p) { _mm_prefetch(p, _MM_HINT_T1); }

 private:
  static const __m256i* as_256(const void* p) { return static_cast<const __m256i*>(p); }
  static __m256i* as_256(void* p) { return static_cast<__m256i*>(p); }
  static Pair from_grids(__m256i x) {
    const __m256i step = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    return {_mm256_cvtph_ps(narrow(step)), _mm256_cvtph_ps(narrow(_mm256_srli_epi32(x, 16)))};
  }
  static Pair even_and_odd(Pair x) {
    const Vec even = _mm256_shuffle_ps(x.lo, x.hi, _MM_SHUFFLE(2, 0, 2, 0));
    const Vec odd = _mm256_shuffle_ps(x.lo, x.hi, _MM_SHUFFLE(3, 1, 3, 1));
    const auto in_order = [](Vec v) {
      return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), _MM_SHUFFLE(3, 1, 2, 0)));
    };
    return {in_order(even), in_order(odd)};
  }
  static __m128i narrow(__m256i x) {  // numbers of 32 bits to as many of 16
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }
  static void store_bytes(void* p, __m256i x) {  // numbers of 32 bits, 0 to 255
    const __m128i words = narrow(x);
    _mm_storel_epi64(as_128(p), _mm_packus_epi16(words, words));
  }
  template <class F>
  static __m256i to_float8(Vec x) {  // as simd/scalar.h does
    using Rounding = Float8Rounding<F>;
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
    const __m256i m = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    const __m256i ties =
        _mm256_and_si256(_mm256_srli_epi32(m, Rounding::kDropped), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(m, _mm256_add_epi32(ties, _mm256_set1_epi32(Rounding::kHalf)));
    const __m256i normal = _mm256_sub_epi32(_mm256_srli_epi32(rounded, Rounding::kDropped),
                                            _mm256_set1_epi32(Rounding::kRebias));
    const Vec shift = set1(Rounding::kShift);
    const __m256i subnormal = _mm256_sub_epi32(
        _mm256_castps_si256(add(_mm256_castsi256_ps(m), shift)), _mm256_castps_si256(shift));
    const __m256i is_subnormal =
        _mm256_cmpgt_epi32(_mm256_set1_epi32(Rounding::kSmallestNormal), m);
    return _mm256_or_si256(sign, _mm256_blendv_epi8(normal, subnormal, is_subnormal));
  }
  static Vec from_int8(__m128i x) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)); }
  static const __m128i* as_128(const void* p) { return static_cast<const __m128i*>(p); }
  static __m128i* as_128(void* p) { return static_cast<__m128i*>(p); }

  template <class Op>
  static float reduce(Vec x, Op op) {
    const __m128 a = op(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 b = op(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(op(b, _mm_shuffle_ps(b, b, 1)));
  }
};

template <>
inline Avx2::Pair Avx2::from_natural<BFloat16>(Pair x) {
  return even_and_odd(x);
}

template <>
inline Avx2::Pair Avx2::to_natural<BFloat16>(Pair x) {
  const Vec lo = _mm256_unpacklo_ps(x.lo, x.hi);
  const Vec hi = _mm256_unpackhi_ps(x.lo, x.hi);
  return {_mm256_permute2f128_ps(lo, hi, 0x20), _mm256_permute2f128_ps(lo, hi, 0x31)};
}

template <>
inline Avx2::Pair Avx2::from_natural<Int8>(Pair x) {
  return {_mm256_permute2f128_ps(x.lo, x.hi, 0x20), _mm256_permute2f128_ps(x.lo, x.hi, 0x31)};
}

template <>
inline Avx2::Pair Avx2::to_natural<Int8>(Pair x) {
  return from_natural<Int8>(x);  // quarters 1 and 2 change places, and back
}

}  // namespace quire
