#include "cpu/simd/words_of.h"
#include "quire/cpu/simd/avx512bf16.h"

namespace quire::testing {

extern constexpr Words kAvx512Bf16Words = WordsOf<Avx512Bf16>::words("avx512bf16");

}  // namespace quire::testing
