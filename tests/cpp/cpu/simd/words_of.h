// Makes the table of a vocabulary's words: what words_<isa>.cpp hands out.
#pragma once

#include <array>

#include "cpu/simd/words.h"
#include "quire/cpu/simd_math.h"

namespace quire::testing {

// Vectors, of whatever type, from and to arrays.
template <class S>
struct VectorsOf {
  using Vec = typename S::Vec;
  using Pair = typename S::Pair;

  template <class V = Vec>
  static V in(const void* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  }
  template <class V>
  static void out(void* to, V v) {
    __builtin_memcpy(to, &v, sizeof v);
  }
  static Pair in_pair(const float* p) { return {in(p), in(p + S::kWidth)}; }
  template <class P>
  static void out_pair(void* to, P pair) {
    out(to, pair.lo);
    out(static_cast<std::byte*>(to) + sizeof pair.lo, pair.hi);
  }
  static void in_all(const void* from, Vec* v) { __builtin_memcpy(v, from, S::kWidth * sizeof *v); }
};

template <class S, class T>
struct RowWordsOf : VectorsOf<S> {
  using V = VectorsOf<S>;

  static void load(const T* p, float* to) { V::out(to, S::load(p)); }
  static void load_part(const T* p, int n, float* to) { V::out(to, S::load(p, n)); }
  static void store(const float* x, T* p) { S::store(p, V::in(x)); }
  static void store_part(const float* x, int n, T* p) { S::store(p, V::in(x), n); }
  static void load_pair(const T* p, float* to) { V::out_pair(to, S::load_pair(p)); }
  static void load_pair_part(const T* p, int n, float* to) { V::out_pair(to, S::load_pair(p, n)); }
  static void from_natural(const float* x, float* to) {
    V::out_pair(to, S::template from_natural<T>(V::in_pair(x)));
  }
  static void to_natural(const float* x, float* to) {
    V::out_pair(to, S::template to_natural<T>(V::in_pair(x)));
  }
  static constexpr RowWords<T> words() {
    return {&load,      &load_part,      &store,        &store_part,
            &load_pair, &load_pair_part, &from_natural, &to_natural};
  }
};

template <class S>
struct IntWordsOf : VectorsOf<S> {
  using V = VectorsOf<S>;
  using I16 = std::int16_t;
  using I32 = std::int32_t;

  static auto in(const void* p) { return V::template in<typename S::Ints>(p); }
  static void zero_ints(I32* to) { V::out(to, S::zero_ints()); }
  static void load_ints(const I16* p, I16* to) { V::out(to, S::load_ints(p)); }
  static void load_int8s(const Int8* p, I16* to) { V::out(to, S::load_ints(p)); }
  static void load_int8s_part(const Int8* p, int n, I16* to) { V::out(to, S::load_ints(p, n)); }
  static void load_bytes(const std::byte* p, I16* to) { V::out(to, S::load_bytes(p)); }
  static void load_bytes_part(const std::byte* p, int n, I16* to) {
    V::out(to, S::load_bytes(p, n));
  }
  static void lower_half(const I16* x, I16* to) { V::out(to, S::lower_half(in(x))); }
  static void upper_half(const I16* x, I16* to) { V::out(to, S::upper_half(in(x))); }
  static void set1_ints(int x, I32* to) { V::out(to, S::set1_ints(x)); }
  static void set1_pair(const I16* p, I16* to) { V::out(to, S::set1_pair(p)); }
  static void pair_up(const I16* a, const I16* b, I16* lo_to, I16* hi_to) {
    typename S::Ints lo, hi;
    S::pair_up(in(a), in(b), lo, hi);
    V::out(lo_to, lo);
    V::out(hi_to, hi);
  }
  static void halves_to_natural(float* x) {
    typename S::Vec v[4];
    __builtin_memcpy(v, x, sizeof v);
    S::halves_to_natural(v);
    __builtin_memcpy(x, v, sizeof v);
  }
  static void dot(const I32* sum, const I16* a, const I16* b, I32* to) {
    V::out(to, S::dot(in(sum), in(a), in(b)));
  }
  static void to_ints(const float* a, const float* b, I16* to) {
    V::out(to, S::to_ints(V::in(a), V::in(b)));
  }
  static void store_ints(const I16* x, I16* p) { S::store(p, in(x)); }
  static void store_rounded(const float* x, I16* p) { S::store(p, V::in(x)); }
  static void transpose_add(const I32* x, float* to) {
    typename S::Ints sums[S::kWidth];
    __builtin_memcpy(sums, x, sizeof sums);
    V::out(to, S::transpose_add(sums));
  }
  static void to_floats(const I32* x, float* to) { V::out(to, S::to_floats(in(x))); }
  static void load_grids_apart(const Int4Grid* p, float* to) {
    out_grids(to, S::load_grids_apart(p));
  }
  static void load_grids_apart_part(const Int4Grid* p, int n, float* to) {
    out_grids(to, S::load_grids_apart(p, n));
  }
  template <class Grids>
  static void out_grids(float* to, Grids grids) {
    V::out_pair(to, grids.even);
    V::out_pair(to + 2 * S::kWidth, grids.odd);
  }

  static constexpr IntWords kWords = {
      &zero_ints,       &load_ints,         &load_int8s, &load_int8s_part,  &load_bytes,
      &load_bytes_part, &lower_half,        &upper_half, &set1_ints,        &set1_pair,
      &pair_up,         &halves_to_natural, &dot,        &to_ints,          &store_ints,
      &store_rounded,   &transpose_add,     &to_floats,  &load_grids_apart, &load_grids_apart_part};
};

template <class S>
struct BFloat16WordsOf : VectorsOf<S> {
  using V = VectorsOf<S>;
  using F8 = Float8E4M3;

  static void dot(const float* sum, const BFloat16* a, const BFloat16* b, float* to) {
    V::out(to, S::dot(V::in(sum), V::in(a), V::in(b)));
  }
  static void load_pairs(const F8* p, BFloat16* to) { V::out_pair(to, S::load_pairs(p)); }
  static void load_pairs_part(const F8* p, int n, BFloat16* to) {
    V::out_pair(to, S::load_pairs(p, n));
  }
  template <class T>
  static void pair_up(const T* a, const T* b, BFloat16* to) {
    V::out_pair(to, S::pair_up(a, b));
  }
  template <class T>
  static void pair_up_part(const T* a, const T* b, int n, BFloat16* to) {
    V::out_pair(to, S::pair_up(a, b, n));
  }
  static void store_rounded(const float* x, BFloat16* p, float* to) {
    V::out(to, S::store_rounded(p, V::in(x)));
  }
  template <class T>
  static void load_narrow(const T* p, BFloat16* to) {
    V::out(to, S::load_narrow(p));
  }
  template <class T>
  static void load_narrow_part(const T* p, int n, BFloat16* to) {
    V::out(to, S::load_narrow(p, n));
  }
  static void pair_up_floats(const float* a, const float* b, BFloat16* to) {
    V::out(to, S::pair_up_floats(V::in(a), V::in(b)));
  }

  static constexpr BFloat16Words kWords = {&dot,
                                           &load_pairs,
                                           &load_pairs_part,
                                           &pair_up<F8>,
                                           &pair_up_part<F8>,
                                           &store_rounded,
                                           &load_narrow<Int8>,
                                           &load_narrow_part<Int8>,
                                           &load_narrow<F8>,
                                           &load_narrow_part<F8>,
                                           &pair_up_floats,
                                           &pair_up<Int8>,
                                           &pair_up_part<Int8>,
                                           &pair_up<BFloat16>,
                                           &pair_up_part<BFloat16>};
};

template <class S>
struct TileWordsOf {
  static void multiply(int rows, bool streams, const BFloat16* a, const BFloat16* b, float* c) {
    S::configure_tiles(rows);
    S::template load_tile<0>(c, 64);
    streams ? S::template stream_tile<4>(a, 64) : S::template load_tile<4>(a, 64);
    S::template load_tile<6>(b, 64);
    S::template multiply_tiles<0, 4, 6>();
    S::template store_tile<0>(c, 64);
    S::release_tiles();
  }
  static void zero(int rows, float* c) {
    S::configure_tiles(rows);
    S::template load_tile<3>(c, 64);
    S::template zero_tile<3>();
    S::template store_tile<3>(c, 64);
    S::release_tiles();
  }
  static void nibble_pairs(const std::byte* words, int shift, BFloat16* pairs) {
    for (int i = 0; i < 16; i += S::kWidth) {
      S::store(reinterpret_cast<float*>(pairs) + i, S::nibble_pairs(words + 4 * i, shift));
    }
  }
  static void prefetch_near(const void* p) { S::prefetch_near(p); }
  static void fraction(const float* x, float* to) {
    for (int i = 0; i < 16; i += S::kWidth) S::store(to + i, S::fraction(S::load(x + i)));
  }
  static void times_power(const float* x, const float* n, float* to) {
    for (int i = 0; i < 16; i += S::kWidth) {
      S::store(to + i, S::times_power(S::load(x + i), S::load(n + i)));
    }
  }
  static void round_to_pairs(const float* a, const float* b, BFloat16* pairs) {
    for (int i = 0; i < 16; i += S::kWidth) {
      S::store(reinterpret_cast<float*>(pairs) + i,
               S::round_to_pairs(S::load(a + i), S::load(b + i)));
    }
  }
  static void pair_up(const BFloat16* a, const BFloat16* b, BFloat16* even, BFloat16* odd) {
    for (int i = 0; i < 16; i += S::kWidth) {
      const auto pairs = S::pair_up(S::load_bits(a + 2 * i), S::load_bits(b + 2 * i));
      S::store(reinterpret_cast<float*>(even) + i, pairs.lo);
      S::store(reinterpret_cast<float*>(odd) + i, pairs.hi);
    }
  }
  static constexpr TileWords words(std::string_view name) {
    return {name,      &multiply,    &zero,           &nibble_pairs, &prefetch_near,
            &fraction, &times_power, &round_to_pairs, &pair_up};
  }
};

template <class S>
struct WordsOf : VectorsOf<S> {
  using V = VectorsOf<S>;

  static void zero(float* to) { V::out(to, S::zero()); }
  static void set1(float x, float* to) { V::out(to, S::set1(x)); }
  static void iota(float* to) { V::out(to, S::iota()); }
  static void add(const float* a, const float* b, float* to) {
    V::out(to, S::add(V::in(a), V::in(b)));
  }
  static void sub(const float* a, const float* b, float* to) {
    V::out(to, S::sub(V::in(a), V::in(b)));
  }
  static void mul(const float* a, const float* b, float* to) {
    V::out(to, S::mul(V::in(a), V::in(b)));
  }
  static void div(const float* a, const float* b, float* to) {
    V::out(to, S::div(V::in(a), V::in(b)));
  }
  static void fma(const float* a, const float* b, const float* c, float* to) {
    V::out(to, S::fma(V::in(a), V::in(b), V::in(c)));
  }
  static void max(const float* a, const float* b, float* to) {
    V::out(to, S::max(V::in(a), V::in(b)));
  }
  static void min(const float* a, const float* b, float* to) {
    V::out(to, S::min(V::in(a), V::in(b)));
  }
  static void shift_to_exponent(const float* a, float* to) {
    V::out(to, S::shift_to_exponent(V::in(a)));
  }
  static void select_lanes(int begin, int end, const float* a, const float* b, float* to) {
    V::out(to, S::select(S::lanes(begin, end), V::in(a), V::in(b)));
  }
  static void select_less(const float* x, const float* y, const float* a, const float* b,
                          float* to) {
    V::out(to, S::select(S::less(V::in(x), V::in(y)), V::in(a), V::in(b)));
  }
  static bool any_lanes(int begin, int end) { return S::any(S::lanes(begin, end)); }
  static bool any_less(const float* a, const float* b) {
    return S::any(S::less(V::in(a), V::in(b)));
  }
  static float reduce_max(const float* a) { return S::reduce_max(V::in(a)); }
  static float reduce_add(const float* a) { return S::reduce_add(V::in(a)); }
  static void transpose_add(const float* x, float* to) {
    typename S::Vec v[S::kWidth];
    V::in_all(x, v);
    V::out(to, S::transpose_add(v));
  }
  static void transpose(float* x) {
    typename S::Vec v[S::kWidth];
    V::in_all(x, v);
    S::transpose(v);
    __builtin_memcpy(x, v, sizeof v);
  }
  static void load_int4(const std::byte* p, float* to) { V::out_pair(to, S::load_int4(p)); }
  static void load_int4_part(const std::byte* p, int n, float* to) {
    V::out_pair(to, S::load_int4(p, n));
  }
  static void store_int4(const float* x, std::byte* p) { S::store_int4(p, V::in_pair(x)); }
  static void store_int4_part(const float* x, int n, std::byte* p) {
    S::store_int4(p, V::in_pair(x), n);
  }
  static void load_nibbles(const std::byte* p, int shift, float* to) {
    V::out(to, S::load_nibbles(p, shift));
  }
  static void load_grids(const Int4Grid* p, float* to) { V::out_pair(to, S::load_grids(p)); }
  static void load_grids_part(const Int4Grid* p, int n, float* to) {
    V::out_pair(to, S::load_grids(p, n));
  }
  static void load_bits(const BFloat16* p, BFloat16* to) { V::out(to, S::load_bits(p)); }
  static void load_bits_part(const BFloat16* p, int n, BFloat16* to) {
    V::out(to, S::load_bits(p, n));
  }
  static void widen(const BFloat16* bits, float* to) { V::out_pair(to, S::widen(V::in(bits))); }
  static void prefetch(const void* p) { S::prefetch(p); }
  static void exp2(const float* a, float* to) { V::out(to, SimdMath<S>::exp2(V::in(a))); }
  static void tanh(const float* a, float* to) { V::out(to, SimdMath<S>::tanh(V::in(a))); }

  static constexpr const IntWords* ints() {
    if constexpr (S::kDotsInt16) return &IntWordsOf<S>::kWords;
    return nullptr;
  }
  static constexpr const BFloat16Words* bfloat16s() {
    if constexpr (S::kDotsBFloat16) return &BFloat16WordsOf<S>::kWords;
    return nullptr;
  }
  // A copy: the member of a struct that another inherits from has the other's name.
  static constexpr auto kRowGroups = std::to_array(S::kRowGroups);
  static constexpr Words words(std::string_view name) {
    return {
        .name = name,
        .width = S::kWidth,
        .accumulators = S::kAccumulators,
        .row_groups = kRowGroups,
        .zero = &zero,
        .set1 = &set1,
        .iota = &iota,
        .add = &add,
        .sub = &sub,
        .mul = &mul,
        .div = &div,
        .fma = &fma,
        .max = &max,
        .min = &min,
        .shift_to_exponent = &shift_to_exponent,
        .select_lanes = &select_lanes,
        .select_less = &select_less,
        .any_lanes = &any_lanes,
        .any_less = &any_less,
        .reduce_max = &reduce_max,
        .reduce_add = &reduce_add,
        .transpose_add = &transpose_add,
        .transpose = &transpose,
        .float32 = RowWordsOf<S, float>::words(),
        .float16 = RowWordsOf<S, Float16>::words(),
        .bfloat16 = RowWordsOf<S, BFloat16>::words(),
        .int8 = RowWordsOf<S, Int8>::words(),
        .float8 = RowWordsOf<S, Float8E4M3>::words(),
        .float8_e5m2 = RowWordsOf<S, Float8E5M2>::words(),
        .load_int4 = &load_int4,
        .load_int4_part = &load_int4_part,
        .store_int4 = &store_int4,
        .store_int4_part = &store_int4_part,
        .load_nibbles = &load_nibbles,
        .load_grids = &load_grids,
        .load_grids_part = &load_grids_part,
        .load_bits = &load_bits,
        .load_bits_part = &load_bits_part,
        .widen = &widen,
        .prefetch = &prefetch,
        .exp2 = &exp2,
        .tanh = &tanh,
        .ints = ints(),
        .bfloat16s = bfloat16s(),
    };
  }
};

}  // namespace quire::testing
