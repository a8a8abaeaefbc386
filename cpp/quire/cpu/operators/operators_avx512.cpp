#include "quire/cpu/operators/operator_set.h"
#include "quire/cpu/simd/avx512.h"

namespace quire {

extern constexpr OperatorKernels kAvx512Operators = operator_set<Avx512>("avx512");

}  // namespace quire
