#include "cpu/simd/words_of.h"
#include "quire/cpu/simd/neon.h"

namespace quire::testing {

extern constexpr Words kNeonWords = WordsOf<Neon>::words("neon");

}  // namespace quire::testing
