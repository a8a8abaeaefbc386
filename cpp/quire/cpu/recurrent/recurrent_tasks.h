// What the kernels of recurrent operators take: plain data and function pointers, so that no code
// compiled for one instruction set can be called but through its table. Strides are in bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/dtype.h"

namespace quire {

// Channels that one item of a convolution has.
inline constexpr std::int64_t kChannelsAtOnce = 512;

// Some channels of one sequence, from their first one on.
struct ConvTask {
  const std::byte* x;
  std::int64_t x_stride;  // from one token to the next
  const std::byte* weight;
  std::int64_t weight_stride;  // from one channel to the next
  const std::byte* bias;       // null: none
  std::byte* state;
  std::int64_t state_stride;  // from one channel to the next
  std::byte* out;
  std::int64_t out_stride;
  std::int64_t num_tokens, num_channels, taps;  // at most kChannelsAtOnce
  DType dtype;                                  // of x and out
  DType weight_dtype, bias_dtype, state_dtype;
  bool silu;
};

// Some columns of the state of one sequence and head, from the first one on.
struct DeltaTask {
  const std::byte *q, *k, *v;
  std::int64_t q_stride, k_stride, v_stride;  // from one token to the next
  DType q_dtype, k_dtype, v_dtype;
  const float *decay, *beta;  // of each token, `num_heads` apart
  std::int64_t num_heads;
  float scale;
  float* state;
  std::int64_t state_stride;  // from one row to the next
  std::byte* out;             // of q_dtype
  std::int64_t out_stride;
  std::int64_t num_tokens, num_keys, num_columns;  // Dk, and at most delta_columns
  float* scratch;  // delta_scratch(num_keys) floats, on a cache line's boundary
};

struct RecurrentKernels {
  void (*causal_conv1d)(const ConvTask& task);
  void (*gated_delta_rule)(const DeltaTask& task);
  std::int64_t delta_columns;
  std::int64_t (*delta_scratch)(std::int64_t num_keys);
};

}  // namespace quire
