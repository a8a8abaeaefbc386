// The end of a product: sums become elements of out.
#pragma once

#include <algorithm>

#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/ops/linear/packed_layout.h"

namespace quire {

template <class S>
struct FinishColumns {
  using Vec = typename S::Vec;

  // The float32 sums of one row and one panel, those of the halves `half_stride` floats apart.
  static void run(const GemmTask& task, std::int64_t row, std::int64_t panel, const float* sums,
                  std::int64_t half_stride) {
    std::byte* const out = task.out + row * task.out_stride;
    if (task.out_dtype == DType::float32) return write<float>(task, out, panel, sums, half_stride);
    if (task.out_dtype == DType::float16)
      return write<Float16>(task, out, panel, sums, half_stride);
    write<BFloat16>(task, out, panel, sums, half_stride);
  }

 private:
  template <class T>
  static void write(const GemmTask& task, std::byte* out, std::int64_t panel, const float* sums,
                    std::int64_t half_stride) {
    T* const to = reinterpret_cast<T*>(out);
    for (std::int64_t i = 0; i < kPanelColumns; i += S::kWidth) {
      const std::int64_t column = panel * kPanelColumns + i;
      const auto count =
          static_cast<int>(std::min<std::int64_t>(S::kWidth, task.num_columns - column));
      if (count <= 0) return;
      Vec x = S::load(sums + i / kHalfColumns * half_stride + i % kHalfColumns);
      if (task.scales != nullptr) x = S::mul(x, S::load(task.scales + column));
      if (task.bias != nullptr) x = S::add(x, S::load(task.bias + column));
      count == S::kWidth ? S::store(to + column, x) : S::store(to + column, x, count);
    }
  }
};

}  // namespace quire
