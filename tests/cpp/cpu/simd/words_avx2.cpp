#include "cpu/simd/words_of.h"
#include "quire/cpu/simd/avx2.h"

namespace quire::testing {

extern constexpr Words kAvx2Words = WordsOf<Avx2>::words("avx2");

}  // namespace quire::testing
