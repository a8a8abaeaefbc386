// The vocabulary of AMX: tiles of 16 rows of 64 bytes, and AVX-512 beside them. simd/tile_model.h
// says in plain code what each word does.
//
// GCC's own intrinsics declare neither the bytes that a tile load reads nor all that the
// configuration reads, so stores before them may be moved behind or dropped (seen with GCC 12 at
// -O3). These name what they read, or all of memory.
#pragma once

#include "quire/cpu/simd/avx512bf16.h"

namespace quire {

// 0 to 15 twice, as bfloat16s.
struct AmxNibbleTable {
  alignas(64) std::uint16_t numbers[32];

  constexpr AmxNibbleTable() : numbers{} {
    for (int i = 0; i < 32; ++i) {
      const auto bits = __builtin_bit_cast(std::uint32_t, static_cast<float>(i % 16));
      numbers[i] = static_cast<std::uint16_t>(bits >> 16);
    }
  }
};

struct Amx : Avx512Bf16 {
  // Tiles 0 to 5 get `rows` rows, 1 to 16, and 6 and 7 all 16; all rows have 64 bytes. The thread
  // has tiles from here to release_tiles(), and nothing else may want them meanwhile.
  static void configure_tiles(int rows) {
    struct alignas(64) Configuration {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t bytes[16] = {};
      std::uint8_t rows[16] = {};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.bytes[tile] = 64;
      configuration.rows[tile] = static_cast<std::uint8_t>(tile < 6 ? rows : 16);
    }
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
  static void release_tiles() { asm volatile("tilerelease" : : : "memory"); }

  // Rows of a tile, `stride` bytes apart.
  template <int kTile>
  static void load_tile(const void* p, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  // The same of what is read once: it leaves the first-level cache to what is used again.
  template <int kTile>
  static void stream_tile(const void* p, std::int64_t stride) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store_tile(void* p, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  // Of 16 words of 32 bits the pairs of four bits at `shift` and at 16 + shift, as bfloat16s.
  static Vec nibble_pairs(const std::byte* words, int shift) {
    const __m512i table =
        _mm512_load_si512(kNibbles.numbers);  // twice: bit 4 of an index is not its own
    const __m512i moved = _mm512_srlv_epi32(_mm512_loadu_si512(words), _mm512_set1_epi32(shift));
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(moved, table));
  }

  // x less the largest whole number that is not larger, rounded down; 0 where x is infinite.
  static Vec fraction(Vec x) { return _mm512_reduce_ps(x, 0x09); }
  // x * 2^n, with n cut down to a whole number.
  static Vec times_power(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }
  // The nearest bfloat16s of both, in pairs; the larger one in magnitude where two are as near.
  static Vec round_to_pairs(Vec a, Vec b) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    const auto moved = [half](Vec x) {
      return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), half));
    };
    return pair_up_floats(moved(a), moved(b));
  }

  // A line, into the first-level cache.
  static void prefetch_near(const void* p) { _mm_prefetch(p, _MM_HINT_T0); }
  template <int kTile>
  static void zero_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  // Adds the products of A's rows of 32 bfloat16s and B's 16 columns of 32, whose pairs lie side by
  // side, to the floats of C.
  template <int kC, int kA, int kB>
  static void multiply_tiles() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }

 private:
  static constexpr AmxNibbleTable kNibbles{};
};

}  // namespace quire
