#include "cpu/simd/words_of.h"
#include "quire/cpu/simd/scalar.h"

namespace quire::testing {

extern constexpr Words kScalarWords = WordsOf<Scalar>::words("scalar");

}  // namespace quire::testing
