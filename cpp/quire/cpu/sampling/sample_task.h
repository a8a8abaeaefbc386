// What the kernels of sampling take: plain data and function pointers, so that no code compiled for
// one instruction set can be called but through its table.
#pragma once

#include <cstdint>

namespace quire {

// Tokens whose powers are added up together.
inline constexpr std::int64_t kTokensAtOnce = 1024;

struct SampleKernels {
  // The largest of `count` logits. is_good: whether all are finite or -inf.
  float (*largest)(const float* logits, std::int64_t count, bool* is_good);
  // powers[i] = 2^((logits[i] - largest) * scale), 0 below 2^-126.
  void (*powers)(const float* logits, std::int64_t count, float largest, float scale,
                 float* powers);
  // Makes the powers 0 of logits below `least_logit`, and those below `least_power`; and adds up
  // each kTokensAtOnce of them, the last ones as many as there are.
  void (*keep)(const float* logits, std::int64_t count, float least_logit, float least_power,
               float* powers, double* sums);
};

}  // namespace quire
