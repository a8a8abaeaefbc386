#include "quire/cpu/operators/operator_set.h"
#include "quire/cpu/simd/avx2.h"

namespace quire {

extern constexpr OperatorKernels kAvx2Operators = operator_set<Avx2>("avx2");

}  // namespace quire
