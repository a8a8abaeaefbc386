#include "cpu/simd/words_of.h"
#include "quire/cpu/simd/amx.h"

namespace quire::testing {

extern constexpr TileWords kAmxWords = TileWordsOf<Amx>::words("amx");

}  // namespace quire::testing
