// What the kernels of norms, rotations and activations take: plain data and function pointers, so
// that no code compiled for one instruction set can be called but through its table. Strides are in
// bytes, from one row to the next.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/dtype.h"
#include "quire/ops/activation/swiglu.h"

namespace quire {

struct RmsNormTask {
  const std::byte* x;
  std::int64_t x_stride;
  const std::byte* residual;  // null: none, and no sums
  std::int64_t residual_stride;
  std::byte* sums;  // x + residual
  std::int64_t sums_stride;
  const std::byte* gate;  // null: none
  std::int64_t gate_stride;
  const float* weight;  // the offset added
  double eps;
  std::byte* out;
  std::int64_t out_stride;
  DType dtype;      // of all rows but out's
  DType out_dtype;  // the same, or any where that is float32
  std::int64_t num_rows, length;
};

struct SwigluTask {
  const std::byte* gate;
  std::int64_t gate_stride;
  const std::byte* up;
  std::int64_t up_stride;
  std::byte* out;
  std::int64_t out_stride;
  DType dtype;
  Activation activation;
  std::int64_t num_rows, length;
};

// Some tokens.
struct RopeTask {
  const std::byte* x;
  std::int64_t x_stride, x_head_stride;
  std::byte* out;
  std::int64_t out_stride, out_head_stride;
  DType dtype;
  std::int64_t num_tokens, num_heads, head_dim, num_pairs;
  bool interleaved;
  const std::int64_t* positions;
  const double* half_turns;  // of each pair, a position
  float attention_factor;
};

struct RowKernels {
  void (*rms_norm)(const RmsNormTask& task);
  void (*swiglu)(const SwigluTask& task);
  void (*rope)(const RopeTask& task);
  // `count` plain floats as float32s, `offset` added.
  void (*widen)(const std::byte* from, DType dtype, std::int64_t count, float offset, float* to);
};

}  // namespace quire
