// Everything that one instruction set offers to the operators of a model beside attention and
// matrix products: what its operators_<isa>.cpp hands out.
#pragma once

#include "quire/cpu/rowwise/row_tasks.h"

namespace quire {

struct OperatorKernels {
  const char* name;
  RowKernels rows;
};

}  // namespace quire
