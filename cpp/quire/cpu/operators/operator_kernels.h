// Everything that one instruction set offers to the operators of a model beside attention and
// matrix products: what its operators_<isa>.cpp hands out.
#pragma once

#include "quire/cpu/recurrent/recurrent_tasks.h"
#include "quire/cpu/rowwise/row_tasks.h"
#include "quire/cpu/sampling/sample_task.h"

namespace quire {

struct OperatorKernels {
  const char* name;
  RowKernels rows;
  SampleKernels sample;
  RecurrentKernels recurrent;
};

// Those of each instruction set that has some of its own.
extern const OperatorKernels kScalarOperators;
extern const OperatorKernels kAvx2Operators;
extern const OperatorKernels kAvx512Operators;
extern const OperatorKernels kNeonOperators;

}  // namespace quire
