#include "quire/cpu/operators/operator_set.h"
#include "quire/cpu/simd/scalar.h"

namespace quire {

extern constexpr OperatorKernels kScalarOperators = operator_set<Scalar>("scalar");

}  // namespace quire
