// The vocabulary on Arm's Advanced SIMD (Armv8-A). simd/scalar.h says what each word means.
#pragma once

#include <arm_neon.h>

#include "quire/base/dtype.h"
#include "quire/format/int4_grid.h"

namespace quire {

struct Neon {
  static constexpr int kWidth = 4;
  static constexpr int kAccumulators = 16;
  static constexpr int kRowGroups[] = {12, 8, 4};
  static constexpr bool kDotsBFloat16 = false;
  static constexpr bool kDotsInt16 = false;

  using Vec = float32x4_t;
  using Mask = uint32x4_t;
  struct Pair {
    Vec lo, hi;
  };

  static Vec zero() { return vdupq_n_f32(0); }
  static Vec set1(float x) { return vdupq_n_f32(x); }
  static Vec iota() { return vcvtq_f32_s32(lane_numbers()); }
  static Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
  static Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
  static Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
  static Vec div(Vec a, Vec b) { return vdivq_f32(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
  static Vec max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  static Vec min(Vec a, Vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  static Vec shift_to_exponent(Vec x) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(x), 23));
  }

  static Mask lanes(int begin, int end) {
    const int32x4_t lane = lane_numbers();
    return vandq_u32(vcgeq_s32(lane, vdupq_n_s32(begin)), vcltq_s32(lane, vdupq_n_s32(end)));
  }
  static Mask less(Vec a, Vec b) { return vcltq_f32(a, b); }
  static bool any(Mask mask) { return vmaxvq_u32(mask) != 0; }
  static Vec select(Mask mask, Vec a, Vec b) { return vbslq_f32(mask, a, b); }

  static float reduce_max(Vec x) { return vmaxvq_f32(x); }
  static float reduce_add(Vec x) { return vaddvq_f32(x); }
  static Vec transpose_add(const Vec* v) {
    return vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3]));
  }

  static void transpose(Vec* v) {
    const float32x4x2_t a = vtrnq_f32(v[0], v[1]);
    const float32x4x2_t b = vtrnq_f32(v[2], v[3]);
    v[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    v[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    v[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    v[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
  }

  static Vec load(const float* p) { return vld1q_f32(p); }
  static Vec load(const Float16* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
  }
  static Vec load(const BFloat16* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16));
  }
  static Vec load(const Int8* p) {
    const int16x8_t x = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four_bytes(p))));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));
  }
  static Vec load(const Float8E4M3* p) {
    const uint16x8_t half = to_half(vreinterpret_s8_u32(vdup_n_u32(four_bytes(p))));
    return from_half(vget_low_u16(half));
  }
  static Vec load(const Float8E5M2* p) {
    const uint16x8_t half = as_upper_bytes(vreinterpret_u8_u32(vdup_n_u32(four_bytes(p))));
    return vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(half)));
  }
  static void store(float* p, Vec x) { vst1q_f32(p, x); }
  static void store(Float16* p, Vec x) {
    vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(x)));
  }
  static void store(BFloat16* p, Vec x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t ties = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(ties, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(&p->bits, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16));
  }

  static void store(Int8* p, Vec x) { store_bytes(p, vreinterpretq_u32_s32(vcvtnq_s32_f32(x))); }
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

  static Pair load_pair(const float* p) { return {load(p), load(p + kWidth)}; }
  static Pair load_pair(const Float16* p) {
    const float16x8_t x = vreinterpretq_f16_u16(vld1q_u16(&p->bits));
    return {vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x)};
  }
  static Pair load_pair(const BFloat16* p) {
    const uint16x8_t x = vld1q_u16(&p->bits);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16)),
            vreinterpretq_f32_u32(vshll_high_n_u16(x, 16))};
  }
  static Pair load_pair(const Int8* p) {
    const int16x8_t x = vmovl_s8(vld1_s8(&p->bits));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x))};
  }
  static Pair load_pair(const Float8E4M3* p) {
    const uint16x8_t half = to_half(vreinterpret_s8_u8(vld1_u8(&p->bits)));
    return {from_half(vget_low_u16(half)), from_half(vget_high_u16(half))};
  }
  static Pair load_pair(const Float8E5M2* p) {
    const float16x8_t half = vreinterpretq_f16_u16(as_upper_bytes(vld1_u8(&p->bits)));
    return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
  }
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
    const uint8x8_t x = vreinterpret_u8_u32(vdup_n_u32(four_bytes(p)));
    const uint8x8_t natural = vzip1_u8(vand_u8(x, vdup_n_u8(15)), vshr_n_u8(x, 4));
    const int16x8_t n = vsubq_s16(vreinterpretq_s16_u16(vmovl_u8(natural)), vdupq_n_s16(8));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(n))), vcvtq_f32_s32(vmovl_high_s16(n))};
  }
  static Pair load_int4(const std::byte* p, int n) {
    std::byte buffer[kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n / 2));
    return load_int4(buffer);
  }
  static void store_int4(std::byte* p, Pair x) {
    const std::uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(to_int4(x)), 0);
    __builtin_memcpy(p, &bytes, sizeof bytes);
  }
  static void store_int4(std::byte* p, Pair x, int n) {
    std::byte buffer[kWidth];
    store_int4(buffer, x);
    __builtin_memcpy(p, buffer, static_cast<std::size_t>(n / 2));
  }
  static Vec load_nibbles(const std::byte* p, int shift) {
    const uint32x4_t words = vreinterpretq_u32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
    const uint32x4_t moved = vshlq_u32(words, vdupq_n_s32(-shift));
    return vcvtq_f32_u32(vandq_u32(moved, vdupq_n_u32(15)));
  }
  static Pair load_grids(const Int4Grid* p) {
    const uint16x4x2_t grids = vld2_u16(&p->step.bits);
    return {vcvt_f32_f16(vreinterpret_f16_u16(grids.val[0])),
            vcvt_f32_f16(vreinterpret_f16_u16(grids.val[1]))};
  }
  static Pair load_grids(const Int4Grid* p, int n) {
    Int4Grid buffer[kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(Int4Grid));
    return load_grids(buffer);
  }

  static Vec load_bits(const BFloat16* p) { return vreinterpretq_f32_u16(vld1q_u16(&p->bits)); }
  static Vec load_bits(const BFloat16* p, int n) {
    BFloat16 buffer[2 * kWidth] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(BFloat16));
    return load_bits(buffer);
  }
  static Pair widen(Vec pairs) {
    const uint32x4_t bits = vreinterpretq_u32_f32(pairs);
    return {vreinterpretq_f32_u32(vshlq_n_u32(bits, 16)),
            vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff0000u)))};
  }

  static void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

 private:
  static std::uint32_t four_bytes(const void* p) {
    std::uint32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return bytes;
  }
  template <class F>
  static uint32x4_t to_float8(Vec x) {  // as simd/scalar.h does, a byte in each lane
    using Rounding = Float8Rounding<F>;
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t sign = vandq_u32(vshrq_n_u32(bits, 24), vdupq_n_u32(0x80));
    const uint32x4_t m = vandq_u32(bits, vdupq_n_u32(0x7fffffff));
    const uint32x4_t ties = vandq_u32(vshrq_n_u32(m, Rounding::kDropped), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(m, vaddq_u32(ties, vdupq_n_u32(Rounding::kHalf)));
    const uint32x4_t normal =
        vsubq_u32(vshrq_n_u32(rounded, Rounding::kDropped), vdupq_n_u32(Rounding::kRebias));
    const Vec shift = set1(Rounding::kShift);
    const uint32x4_t subnormal = vsubq_u32(
        vreinterpretq_u32_f32(add(vreinterpretq_f32_u32(m), shift)), vreinterpretq_u32_f32(shift));
    const uint32x4_t is_subnormal = vcltq_u32(m, vdupq_n_u32(Rounding::kSmallestNormal));
    return vorrq_u32(sign, vbslq_u32(is_subnormal, subnormal, normal));
  }
  static uint16x8_t as_upper_bytes(uint8x8_t x) { return vshlq_n_u16(vmovl_u8(x), 8); }
  // A float8 with its exponent and mantissa where a float16 has them is one 2^8 times smaller.
  static uint16x8_t to_half(int8x8_t x) {
    const uint16x8_t magnitude = vdupq_n_u16(0x3f80);
    const uint16x8_t moved = vshlq_n_u16(vreinterpretq_u16_s16(vmovl_s8(x)), 7);
    const uint16x8_t bits = vandq_u16(moved, vdupq_n_u16(0xbf80));
    const uint16x8_t nan = vceqq_u16(vandq_u16(bits, magnitude), magnitude);
    return vorrq_u16(bits, vandq_u16(nan, vdupq_n_u16(0x7e00)));
  }
  static Vec from_half(uint16x4_t half) {
    return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(half)), 256.0f);
  }
  static void store_bytes(void* p, uint32x4_t x) {  // the lowest of each number
    const uint16x4_t words = vmovn_u32(x);
    const uint8x8_t narrow = vmovn_u16(vcombine_u16(words, words));
    const std::uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(narrow), 0);
    __builtin_memcpy(p, &bytes, sizeof bytes);
  }
  static uint8x8_t to_int4(Pair x) {  // four bytes, twice
    const auto code = [](Vec v) {
      const int32x4_t n = vcvtnq_s32_f32(max(set1(-8.0f), min(set1(7.0f), v)));
      return vmovn_u32(vreinterpretq_u32_s32(vaddq_s32(n, vdupq_n_s32(8))));
    };
    const uint8x8_t codes = vmovn_u16(vcombine_u16(code(x.lo), code(x.hi)));
    return vorr_u8(vuzp1_u8(codes, codes), vshl_n_u8(vuzp2_u8(codes, codes), 4));
  }
  static int32x4_t lane_numbers() {
    const std::int32_t lane[kWidth] = {0, 1, 2, 3};
    return vld1q_s32(lane);
  }
};

}  // namespace quire
