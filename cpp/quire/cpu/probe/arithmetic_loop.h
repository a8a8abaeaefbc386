// Multiply-adds of registers and nothing else, for arithmetic_peak.h.
#pragma once

#include <cstdint>

#include "quire/base/dtype.h"

namespace quire {

template <class S>
struct ArithmeticLoop {
  using Vec = typename S::Vec;

  // As many as the kernels' widest tile keeps in registers: enough that no sum waits for itself.
  static constexpr int kSums = 2 * S::kRowGroups[0];

  // `rounds` of one multiply-add to each sum: of float32, or of pairs of bfloat16. Returns the
  // FLOPs done, or 0 where S has no such instruction. All factors are 1, and the sums begin by
  // adding up to 0: in the end *total, of them all, is half the FLOPs.
  static double run(DType dtype, std::int64_t rounds, float* total) {
    if (dtype == DType::float32) {
      const Vec one = S::set1(opaque_one());
      // the sum is a factor, as a product of constants would be computed once and for all
      *total = repeat(rounds, [one](Vec sum) { return S::fma(sum, one, one); });
      return 2.0 * S::kWidth * kSums * static_cast<double>(rounds);
    }
    if constexpr (S::kDotsBFloat16) {
      if (dtype == DType::bfloat16) {
        BFloat16 ones[2 * S::kWidth];
        for (BFloat16& element : ones) element.bits = 0x3f80;
        const Vec pairs = S::load_bits(ones);
        *total = repeat(rounds, [pairs](Vec sum) { return S::dot(sum, pairs, pairs); });
        return 4.0 * S::kWidth * kSums * static_cast<double>(rounds);
      }
    }
    return 0;
  }

 private:
  // 1, which the compiler does not know.
  static float opaque_one() {
    const volatile float one = 1;
    return one;
  }

  // The sums begin apart, or the compiler would keep only one of them.
  template <class MultiplyAdd>
  static float repeat(std::int64_t rounds, MultiplyAdd multiply_add) {
    Vec sums[kSums];
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) {
      sums[i] = S::set1(static_cast<float>(i) - 0.5f * (kSums - 1));
    }
    for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
      for (int i = 0; i < kSums; ++i) sums[i] = multiply_add(sums[i]);
    }
    float total = 0;
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) total += S::reduce_add(sums[i]);
    return total;
  }
};

}  // namespace quire
