#include "cpu/simd/words_of.h"
#include "quire/cpu/simd/avx512.h"

namespace quire::testing {

extern constexpr Words kAvx512Words = WordsOf<Avx512>::words("avx512");

}  // namespace quire::testing
