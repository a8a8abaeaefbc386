#include "quire/cpu/operators/operator_set.h"
#include "quire/cpu/simd/neon.h"

namespace quire {

extern constexpr OperatorKernels kNeonOperators = operator_set<Neon>("neon");

}  // namespace quire
