#include "quire/cpu/operators/operator_list.h"

namespace quire {
namespace {

// Advanced SIMD is part of every Armv8-A processor.
constexpr OperatorChoice kList[] = {
    {&kNeonOperators, [] { return true; }},
    {&kScalarOperators, [] { return true; }},
};

}  // namespace

std::span<const OperatorChoice> operator_list() { return kList; }

}  // namespace quire
