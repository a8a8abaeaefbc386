#include "cpu/simd/words_of.h"
#include "quire/cpu/simd/tile_model.h"

namespace quire::testing {

extern constexpr TileWords kTileModelWords = TileWordsOf<TileModel>::words("model");

}  // namespace quire::testing
