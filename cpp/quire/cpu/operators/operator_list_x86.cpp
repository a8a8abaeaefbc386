#include "quire/cpu/operators/operator_list.h"
#include "quire/cpu/x86_features.h"

namespace quire {
namespace {

constexpr OperatorChoice kList[] = {
    {&kAvx512Operators, has_avx512},
    {&kAvx2Operators, has_avx2},
    {&kScalarOperators, [] { return true; }},
};

}  // namespace

std::span<const OperatorChoice> operator_list() { return kList; }

}  // namespace quire
