// The kernels of operators on a vocabulary.
#pragma once

#include "quire/cpu/operators/operator_kernels.h"
#include "quire/cpu/recurrent/conv_channels.h"
#include "quire/cpu/recurrent/delta_columns.h"
#include "quire/cpu/rowwise/rms_norm_rows.h"
#include "quire/cpu/rowwise/rope_rows.h"
#include "quire/cpu/rowwise/swiglu_rows.h"
#include "quire/cpu/sampling/token_powers.h"

namespace quire {

template <class S>
constexpr OperatorKernels operator_set(const char* name) {
  return {name,
          {&RmsNormRows<S>::run, &SwigluRows<S>::run, &RopeRows<S>::run, &RmsNormRows<S>::widen},
          {&TokenPowers<S>::largest, &TokenPowers<S>::powers, &TokenPowers<S>::keep},
          {&ConvChannels<S>::run, &DeltaColumns<S>::run, DeltaColumns<S>::kColumns,
           &DeltaColumns<S>::scratch_floats}};
}

}  // namespace quire
