// All kernels of matrix products that this machine has, and the model of tiles, for tests of each.
#pragma once

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "quire/cpu/gemm/lane_gemm.h"
#include "quire/cpu/gemm/linear_launch.h"
#include "quire/cpu/gemm/tile_gemm.h"
#include "quire/cpu/kernel_list.h"
#include "quire/cpu/simd/tile_model.h"

namespace quire::testing {

inline constexpr GemmKernels kModelGemm = {"model", LaneGemm<Scalar>::path(),
                                           &TileGemm<TileModel>::kPath};

inline std::vector<const GemmKernels*> all_kernels() {
  std::vector<const GemmKernels*> all = {&kModelGemm};
  for (const KernelSource& source : kernel_list()) {
    const GemmKernels* const kernels = source.kernels->gemm;
    if (kernels != nullptr && source.runs_here()) all.push_back(kernels);
  }
  return all;
}

class OnGemmKernels : public ::testing::TestWithParam<const GemmKernels*> {
 protected:
  GemmExecution on(int num_threads) const { return {GetParam(), num_threads}; }
  // Plain code is slow: fewer cases of it.
  bool is_plain() const {
    return GetParam() == &kModelGemm || GetParam()->name == std::string_view("scalar");
  }
};

}  // namespace quire::testing
