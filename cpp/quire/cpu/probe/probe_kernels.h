// What an instruction set offers to those who measure a processor.
#pragma once

#include <cstdint>

#include "quire/task/dtype_name.h"

namespace quire {

struct ProbeKernels {
  const char* instruction_set;

  // `rounds` of multiply-adds of registers, in float32 or of pairs of bfloat16: returns the FLOPs
  // done, 0 where there is no such instruction, and their sum. For arithmetic_peak.h.
  double (*arithmetic)(DType dtype, std::int64_t rounds, float* total);
};

}  // namespace quire
