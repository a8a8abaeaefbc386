// AMX's tiles in plain code, to the bit: what a kernel of tiles computes can be tested on any
// processor.
#pragma once

#include <cstring>

#include "quire/cpu/simd/scalar.h"

namespace quire {

struct TileModel : Scalar {
  static void configure_tiles(int rows) {
    for (int tile = 0; tile < 8; ++tile) state().rows[tile] = tile < 6 ? rows : 16;
  }
  static void release_tiles() { state() = State{}; }

  template <int kTile>
  static void load_tile(const void* p, std::int64_t stride) {
    for (int row = 0; row < state().rows[kTile]; ++row) {
      std::memcpy(state().tiles[kTile][row], static_cast<const std::byte*>(p) + row * stride, 64);
    }
  }
  template <int kTile>
  static void stream_tile(const void* p, std::int64_t stride) {
    load_tile<kTile>(p, stride);
  }
  template <int kTile>
  static void store_tile(void* p, std::int64_t stride) {
    for (int row = 0; row < state().rows[kTile]; ++row) {
      std::memcpy(static_cast<std::byte*>(p) + row * stride, state().tiles[kTile][row], 64);
    }
  }
  static void prefetch_near(const void*) {}
  template <int kTile>
  static void zero_tile() {
    std::memset(state().tiles[kTile], 0, sizeof state().tiles[kTile]);
  }

  // The order of AMX's sums: even and odd products of the 32 apart, in order, from zero; then both
  // together; then onto what is there. Products of bfloat16s are exact in float32, so it is the
  // same whether they are rounded before they are added. AMX takes subnormal numbers for zero,
  // which the thread's mode must see to (FlushingFloatMode). Found by comparing 768,000 sums on an
  // Emerald Rapids, with exponents from 2^-90 to 2^59, infinities and NaN: none differs.
  template <int kC, int kA, int kB>
  static void multiply_tiles() {
    for (int row = 0; row < state().rows[kC]; ++row) {
      for (int column = 0; column < 16; ++column) {
        float even = 0, odd = 0;
        for (int pair = 0; pair < 16; ++pair) {
          const Vec a = word<Vec>(kA, row, pair), b = word<Vec>(kB, pair, column);
          const Pair x = widen(a), w = widen(b);
          even = __builtin_fmaf(x.lo, w.lo, even);
          odd = __builtin_fmaf(x.hi, w.hi, odd);
        }
        const float sum = word<float>(kC, row, column) + (even + odd);
        std::memcpy(state().tiles[kC][row] + 4 * column, &sum, sizeof sum);
      }
    }
  }

  // As simd/amx.h.
  static Vec nibble_pairs(const std::byte* words, int shift) {
    return pair_up_floats(load_nibbles(words, shift), load_nibbles(words, shift + 16));
  }
  // As simd/amx.h, in the thread's mode as well.
  static Vec fraction(Vec x) {
    if (__builtin_isinf(x) || x != x) return x != x ? x : 0;
    const double exact = static_cast<double>(x) - static_cast<double>(__builtin_floorf(x));
    const auto nearest = static_cast<float>(exact);
    const bool is_above = static_cast<double>(nearest) > exact || nearest == 1;
    return is_above ? __builtin_nextafterf(nearest, 0) : nearest;
  }
  static Vec times_power(Vec x, Vec n) {
    if (n != n) return n;
    // of larger ones nothing is left, or everything is infinite
    const float whole = __builtin_floorf(max(-400.0f, min(400.0f, n)));
    float product = x;
    for (float rest = whole < 0 ? -whole : whole; rest > 0; rest -= 100) {
      const float step = min(100.0f, rest);
      product *= __builtin_ldexpf(1.0f, static_cast<int>(whole < 0 ? -step : step));
    }
    return product;
  }
  static Vec round_to_pairs(Vec a, Vec b) { return pair_up_floats(moved(a), moved(b)); }

  // Rounded once, as vectors round it.
  static Vec fma(Vec a, Vec b, Vec c) { return __builtin_fmaf(a, b, c); }

  // As simd/avx512bf16.h.
  static Pair pair_up(Vec a, Vec b) {
    std::uint32_t low, high;
    std::memcpy(&low, &a, sizeof low);
    std::memcpy(&high, &b, sizeof high);
    const std::uint32_t even = (low & 0xffffu) | high << 16;
    Pair pair{0, pair_up_floats(a, b)};
    std::memcpy(&pair.lo, &even, sizeof even);
    return pair;
  }
  static Vec pair_up_floats(Vec a, Vec b) {
    std::uint32_t low, high;
    std::memcpy(&low, &a, sizeof low);
    std::memcpy(&high, &b, sizeof high);
    const std::uint32_t pair = low >> 16 | (high & 0xffff0000u);
    std::memcpy(&a, &pair, sizeof pair);
    return a;
  }

 private:
  struct State {
    int rows[8] = {};
    std::byte tiles[8][16][64] = {};
  };
  static State& state() {
    thread_local State tiles_of_this_thread;
    return tiles_of_this_thread;
  }
  // Half of the last place of a bfloat16 on.
  static Vec moved(Vec x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits += 0x8000u;
    std::memcpy(&x, &bits, sizeof bits);
    return x;
  }
  template <class T>
  static T word(int tile, int row, int place) {
    T value;
    std::memcpy(&value, state().tiles[tile][row] + 4 * place, sizeof value);
    return value;
  }
};

}  // namespace quire
