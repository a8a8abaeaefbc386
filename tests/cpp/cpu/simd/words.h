// The words of a vocabulary, each as a function over arrays.
//
// A word is compiled with the flags of its instruction set, and what tests it with those of any
// processor: so that a test can run, or say that it is skipped, wherever it is built, only plain
// data and function pointers pass between the two, as in quire/cpu/kernel_set.h.
//
// A vector is `width` floats, a pair twice as many, lo then hi, and whole numbers 2 * width of 16
// bits or width of 32. Arguments come before what a function fills.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "quire/base/dtype.h"
#include "quire/format/int4_grid.h"

namespace quire::testing {

// Rows of one dtype.
template <class T>
struct RowWords {
  void (*load)(const T* p, float* vector);
  void (*load_part)(const T* p, int n, float* vector);
  void (*store)(const float* vector, T* p);
  void (*store_part)(const float* vector, int n, T* p);
  void (*load_pair)(const T* p, float* pair);
  void (*load_pair_part)(const T* p, int n, float* pair);
  void (*from_natural)(const float* pair, float* ordered);
  void (*to_natural)(const float* pair, float* natural);
};

// Whole numbers, where S::kDotsInt16.
struct IntWords {
  void (*zero_ints)(std::int32_t* sums);
  void (*load_ints)(const std::int16_t* p, std::int16_t* ints);
  void (*load_int8s)(const Int8* p, std::int16_t* ints);
  void (*load_int8s_part)(const Int8* p, int n, std::int16_t* ints);
  void (*load_bytes)(const std::byte* p, std::int16_t* ints);
  void (*load_bytes_part)(const std::byte* p, int n, std::int16_t* ints);
  void (*lower_half)(const std::int16_t* bytes, std::int16_t* halves);
  void (*upper_half)(const std::int16_t* bytes, std::int16_t* halves);
  void (*set1_ints)(int x, std::int32_t* sums);
  void (*set1_pair)(const std::int16_t* p, std::int16_t* ints);
  void (*pair_up)(const std::int16_t* a, const std::int16_t* b, std::int16_t* lo, std::int16_t* hi);
  void (*halves_to_natural)(float* four_vectors);
  void (*dot)(const std::int32_t* sum, const std::int16_t* a, const std::int16_t* b,
              std::int32_t* sums);
  void (*to_ints)(const float* a, const float* b, std::int16_t* ints);
  void (*store_ints)(const std::int16_t* ints, std::int16_t* p);
  void (*store_rounded)(const float* vector, std::int16_t* p);
  void (*transpose_add)(const std::int32_t* sums, float* vector);
  void (*to_floats)(const std::int32_t* sums, float* vector);
  void (*load_grids_apart)(const Int4Grid* p, float* even_and_odd);  // two pairs
  void (*load_grids_apart_part)(const Int4Grid* p, int n, float* even_and_odd);
};

// Pairs of bfloat16, where S::kDotsBFloat16. Elements of rows come as their bits.
struct BFloat16Words {
  void (*dot)(const float* sum, const BFloat16* a, const BFloat16* b, float* vector);
  void (*load_pairs)(const Float8E4M3* p, BFloat16* lo_and_hi);
  void (*load_pairs_part)(const Float8E4M3* p, int n, BFloat16* lo_and_hi);
  void (*pair_up_float8s)(const Float8E4M3* a, const Float8E4M3* b, BFloat16* lo_and_hi);
  void (*pair_up_float8s_part)(const Float8E4M3* a, const Float8E4M3* b, int n,
                               BFloat16* lo_and_hi);
  void (*store_rounded)(const float* vector, BFloat16* p, float* rounded);
  void (*load_narrow_int8s)(const Int8* p, BFloat16* numbers);
  void (*load_narrow_int8s_part)(const Int8* p, int n, BFloat16* numbers);
  void (*load_narrow_float8s)(const Float8E4M3* p, BFloat16* numbers);
  void (*load_narrow_float8s_part)(const Float8E4M3* p, int n, BFloat16* numbers);
  void (*pair_up_floats)(const float* a, const float* b, BFloat16* pairs);
  void (*pair_up_int8s)(const Int8* a, const Int8* b, BFloat16* lo_and_hi);
  void (*pair_up_int8s_part)(const Int8* a, const Int8* b, int n, BFloat16* lo_and_hi);
  void (*pair_up_bfloat16s)(const BFloat16* a, const BFloat16* b, BFloat16* lo_and_hi);
  void (*pair_up_bfloat16s_part)(const BFloat16* a, const BFloat16* b, int n, BFloat16* lo_and_hi);
};

struct Words {
  std::string_view name;
  int width, accumulators;
  std::span<const int> row_groups;

  void (*zero)(float* vector);
  void (*set1)(float x, float* vector);
  void (*iota)(float* vector);
  void (*add)(const float* a, const float* b, float* vector);
  void (*sub)(const float* a, const float* b, float* vector);
  void (*mul)(const float* a, const float* b, float* vector);
  void (*div)(const float* a, const float* b, float* vector);
  void (*fma)(const float* a, const float* b, const float* c, float* vector);
  void (*max)(const float* a, const float* b, float* vector);
  void (*min)(const float* a, const float* b, float* vector);
  void (*shift_to_exponent)(const float* a, float* vector);
  void (*select_lanes)(int begin, int end, const float* a, const float* b, float* vector);
  void (*select_less)(const float* x, const float* y, const float* a, const float* b,
                      float* vector);
  bool (*any_lanes)(int begin, int end);
  bool (*any_less)(const float* a, const float* b);
  float (*reduce_max)(const float* a);
  float (*reduce_add)(const float* a);
  void (*transpose_add)(const float* vectors, float* vector);
  void (*transpose)(float* vectors);

  RowWords<float> float32;
  RowWords<Float16> float16;
  RowWords<BFloat16> bfloat16;
  RowWords<Int8> int8;
  RowWords<Float8E4M3> float8;
  RowWords<Float8E5M2> float8_e5m2;

  void (*load_int4)(const std::byte* p, float* pair);
  void (*load_int4_part)(const std::byte* p, int n, float* pair);
  void (*store_int4)(const float* pair, std::byte* p);
  void (*store_int4_part)(const float* pair, int n, std::byte* p);
  void (*load_nibbles)(const std::byte* p, int shift, float* vector);
  void (*load_grids)(const Int4Grid* p, float* pair);
  void (*load_grids_part)(const Int4Grid* p, int n, float* pair);
  void (*load_bits)(const BFloat16* p, BFloat16* bits);
  void (*load_bits_part)(const BFloat16* p, int n, BFloat16* bits);
  void (*widen)(const BFloat16* bits, float* pair);
  void (*prefetch)(const void* p);

  // SimdMath<S> of quire/cpu/simd_math.h.
  void (*exp2)(const float* a, float* vector);
  void (*tanh)(const float* a, float* vector);

  const IntWords* ints;            // null: it has none
  const BFloat16Words* bfloat16s;  // likewise
};

// Tiles, of simd/amx.h and its model. A tile has 16 rows of 64 bytes.
struct TileWords {
  std::string_view name;
  // c + the products of a's first `rows` rows, loaded as a stream or not, and b.
  void (*multiply)(int rows, bool streams, const BFloat16* a, const BFloat16* b, float* c);
  void (*zero)(int rows, float* c);
  // Of 16 words.
  void (*nibble_pairs)(const std::byte* words, int shift, BFloat16* pairs);
  void (*prefetch_near)(const void* p);
  // Of 16 floats each.
  void (*fraction)(const float* x, float* to);
  void (*times_power)(const float* x, const float* n, float* to);
  void (*round_to_pairs)(const float* a, const float* b, BFloat16* pairs);
  // Of 16 words, the pairs of the even columns and those of the odd ones.
  void (*pair_up)(const BFloat16* a, const BFloat16* b, BFloat16* even, BFloat16* odd);
};

extern const TileWords kTileModelWords;
extern const TileWords kAmxWords;  // of x86-64 alone

extern const Words kScalarWords;
extern const Words kAvx2Words;
extern const Words kAvx512Words;
extern const Words kAvx512Bf16Words;
extern const Words kNeonWords;

}  // namespace quire::testing
