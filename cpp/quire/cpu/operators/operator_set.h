// The kernels of operators on a vocabulary.
#pragma once

#include "quire/cpu/operators/operator_kernels.h"
#include "quire/cpu/rowwise/rms_norm_rows.h"
#include "quire/cpu/rowwise/rope_rows.h"
#include "quire/cpu/rowwise/swiglu_rows.h"

namespace quire {

template <class S>
constexpr OperatorKernels operator_set(const char* name) {
  return {name,
          {&RmsNormRows<S>::run, &SwigluRows<S>::run, &RopeRows<S>::run, &RmsNormRows<S>::widen}};
}

}  // namespace quire
