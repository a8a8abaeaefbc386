// The vocabulary that every kernel is written in, and its plain form for any processor.
//
// An instruction set is a struct with these members, and nothing else about it is known outside
// simd/ and its kernels_<isa>.cpp. Words work on a Vec of kWidth floats; a Pair is two of them,
// which hold 2 * kWidth elements of a row in whatever order of lanes is cheapest to load for its
// dtype.
//
// Kernels are compiled once for each instruction set. A function that does not hang on its struct
// would be merged by the linker across them, and the wrong one kept: so everything does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/dtype.h"
#include "quire/format/int4_grid.h"

namespace quire {

struct Scalar {
  static constexpr int kWidth = 1;
  static constexpr int kAccumulators =
      16;  // sums that a kernel keeps in registers; a multiple of kWidth
  // rows that go through a packed tile together, two vectors wide: sizes that add up to any
  // multiple of 4, the largest as many as leave registers for the operands
  static constexpr int kRowGroups[] = {4};
  static constexpr bool kDotsBFloat16 = false;  // see simd/avx512bf16.h
  static constexpr bool kDotsInt16 = false;     // see simd/avx2.h

  using Vec = float;
  using Mask = bool;
  struct Pair {
    Vec lo, hi;
  };

  static Vec zero() { return 0; }
  static Vec set1(float x) { return x; }
  static Vec iota() { return 0; }  // 0, 1, 2, ...
  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec sub(Vec a, Vec b) { return a - b; }
  static Vec mul(Vec a, Vec b) { return a * b; }
  static Vec div(Vec a, Vec b) { return a / b; }
  // a * b + c, rounded once. Here the product is exact, but the sum is rounded to double, and then
  // to float: where it lies next to the middle of two floats that may be the other one.
  static Vec fma(Vec a, Vec b, Vec c) { return static_cast<float>(static_cast<double>(a) * b + c); }
  static Vec max(Vec a, Vec b) { return a > b ? a : b; }  // b where one is NaN
  static Vec min(Vec a, Vec b) { return a < b ? a : b; }  // b where one is NaN
  static Vec shift_to_exponent(Vec x) {  // the lowest bits of x moved up to where an exponent is
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    bits <<= 23;
    __builtin_memcpy(&x, &bits, sizeof bits);
    return x;
  }

  static Mask lanes(int begin, int end) { return begin <= 0 && 0 < end; }  // begin <= lane < end
  static Mask less(Vec a, Vec b) { return a < b; }
  static bool any(Mask mask) { return mask; }
  static Vec select(Mask mask, Vec a, Vec b) { return mask ? a : b; }

  // Where lanes are NaN, NaN or the largest of some of the others: who must know looks for them.
  static float reduce_max(Vec x) { return x; }
  static float reduce_add(Vec x) { return x; }
  static Vec transpose_add(const Vec* v) { return v[0]; }  // lane i: the sum of v[i]'s lanes
  static void transpose(Vec*) {}  // kWidth vectors: lane j of v[i] and lane i of v[j] change places

  // kWidth elements, or n of them with 0 in the lanes past n, in natural order. Stores round to
  // nearest even, as from_float of quire/base/dtype.h.
  static Vec load(const float* p) { return *p; }
  static Vec load(const Float16* p) {
    const std::uint32_t sign = static_cast<std::uint32_t>(p->bits & 0x8000u) << 16;
    const std::uint32_t exponent = (p->bits >> 10) & 0x1fu;
    const std::uint32_t mantissa = p->bits & 0x3ffu;
    const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
    if (exponent == 0) return sign ? -subnormal : subnormal;
    return of_bits(sign | ((exponent == 31 ? 255u : exponent + 112u) << 23) | (mantissa << 13));
  }
  static Vec load(const BFloat16* p) { return of_bits(static_cast<std::uint32_t>(p->bits) << 16); }
  static Vec load(const Int8* p) { return static_cast<float>(p->bits); }
  static Vec load(const Float8E4M3* p) {
    const std::uint32_t sign = static_cast<std::uint32_t>(p->bits & 0x80u) << 24;
    const std::uint32_t magnitude = p->bits & 0x7fu;
    if (magnitude == 0x7fu) return of_bits(sign | 0x7fc00000u);
    const float subnormal = static_cast<float>(magnitude) * 0x1p-9f;
    if (magnitude < 8) return sign ? -subnormal : subnormal;
    return of_bits(sign | ((magnitude << 20) + (120u << 23)));
  }
  static Vec load(const Float8E5M2* p) {
    const Float16 half = {static_cast<std::uint16_t>(p->bits << 8)};
    return load(&half);
  }
  static void store(float* p, Vec x) { *p = x; }
  static void store(Float16* p, Vec x) { *p = from_float<Float16>(x); }
  static void store(BFloat16* p, Vec x) { *p = from_float<BFloat16>(x); }
  // Of numbers that are finite and at most largest_of in magnitude.
  static void store(Int8* p, Vec x) {  // at 1.5 * 2^23 floats are 1 apart: their lowest bits count
    *p = {static_cast<std::int8_t>(bits_of(x + 0x1.8p23f))};
  }
  static void store(Float8E4M3* p, Vec x) { *p = to_float8<Float8E4M3>(x); }
  static void store(Float8E5M2* p, Vec x) { *p = to_float8<Float8E5M2>(x); }
  template <class T>
  static Vec load(const T* p, int n) {
    return n > 0 ? load(p) : 0;
  }
  template <class T>
  static void store(T* p, Vec x, int n) {
    if (n > 0) store(p, x);
  }

  // 2 * kWidth elements, or 0 < n < 2 * kWidth of them with 0 in the other lanes.
  template <class T>
  static Pair load_pair(const T* p) {
    return {load(p), load(p + 1)};
  }
  template <class T>
  static Pair load_pair(const T* p, int) {
    return {load(p), 0};
  }
  // Between natural order (lo: the first kWidth elements) and that of load_pair(const T*).
  template <class T>
  static Pair from_natural(Pair x) {
    return x;
  }
  template <class T>
  static Pair to_natural(Pair x) {
    return x;
  }

  // 2 * kWidth numbers of four bits (quire/format/int4_grid.h), -8 to 7, in natural order; or n of
  // them, n even, and what there may be in the other lanes.
  static Pair load_int4(const std::byte* p) {
    const auto pair = static_cast<int>(*p);
    return {static_cast<float>((pair & 15) - 8), static_cast<float>((pair >> 4) - 8)};
  }
  static Pair load_int4(const std::byte* p, int) { return load_int4(p); }
  // 2 * kWidth finite numbers in the order of load_pair(const BFloat16*), or n of them, n even, cut
  // off at -8 and 7 and rounded to nearest even.
  static void store_int4(std::byte* p, Pair x) {
    *p = static_cast<std::byte>(int4_of(x.lo) | int4_of(x.hi) << 4);
  }
  static void store_int4(std::byte* p, Pair x, int) { store_int4(p, x); }
  // Of kWidth words of 32 bits the four from bit `shift` on, 0 to 15.
  static Vec load_nibbles(const std::byte* p, int shift) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return static_cast<float>(bits >> shift & 15u);
  }
  // Grids of kWidth elements, or n of them with 0 in the other lanes: lo their steps, hi middles.
  static Pair load_grids(const Int4Grid* p) { return {load(&p->step), load(&p->middle)}; }
  static Pair load_grids(const Int4Grid* p, int n) { return n > 0 ? load_grids(p) : Pair{0, 0}; }

  // 2 * kWidth bfloat16 elements as they lie in memory, a pair in each lane, and those pairs apart.
  static Vec load_bits(const BFloat16* p) { return load_bits(p, 2); }
  static Vec load_bits(const BFloat16* p, int n) {
    return of_bits(p[0].bits | (n > 1 ? static_cast<std::uint32_t>(p[1].bits) << 16 : 0u));
  }
  static Pair widen(Vec pairs) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &pairs, sizeof bits);
    return {of_bits(bits << 16), of_bits(bits & 0xffff0000u)};
  }

  static void prefetch(const void*) {}  // a line, into the second-level cache

 private:
  template <class F>
  static F to_float8(Vec x) {
    using Rounding = Float8Rounding<F>;
    const std::uint32_t sign = (bits_of(x) >> 24) & 0x80u;
    const std::uint32_t m = bits_of(x) & 0x7fffffffu;
    const std::uint32_t ties = (m >> Rounding::kDropped) & 1u;
    const std::uint32_t normal =
        ((m + Rounding::kHalf + ties) >> Rounding::kDropped) - Rounding::kRebias;
    const std::uint32_t subnormal =
        bits_of(of_bits(m) + Rounding::kShift) - bits_of(Rounding::kShift);
    return {static_cast<std::uint8_t>(sign | (m < Rounding::kSmallestNormal ? subnormal : normal))};
  }
  static unsigned int4_of(Vec x) {
    return bits_of(max(-8.0f, min(7.0f, x)) + (0x1.8p23f + 8.0f)) & 15u;
  }
  static std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  static float of_bits(std::uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
  }
};

}  // namespace quire
