#include "quire/cpu/operators/operator_list.h"

namespace quire {
namespace {

constexpr OperatorChoice kList[] = {{&kScalarOperators, [] { return true; }}};

}  // namespace

std::span<const OperatorChoice> operator_list() { return kList; }

}  // namespace quire
