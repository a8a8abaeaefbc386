// All kernels of matrix products that this machine has, and the model of tiles, for tests of each.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quire/cpu/execution.h"
#include "quire/cpu/gemm/lane_gemm.h"
#include "quire/cpu/gemm/linear_launch.h"
#include "quire/cpu/gemm/tile_gemm.h"
#include "quire/cpu/kernel_list.h"
#include "quire/cpu/simd/tile_model.h"

namespace quire::testing {

inline constexpr GemmKernels kModelGemm = {"model", LaneGemm<Scalar>::path(),
                                           &TileGemm<TileModel>::kPath};

// As if these were the products of an instruction set of this machine.
inline SelectedKernels with_products(const GemmKernels& gemm) {
  SelectedKernels kernels = kernels_named("scalar");
  kernels.gemm = &gemm;
  return kernels;
}

inline std::vector<const SelectedKernels*> all_kernels() {
  static const SelectedKernels model = with_products(kModelGemm);
  std::vector<const SelectedKernels*> all = {&model};
  for (const KernelSource& source : kernel_list()) {
    if (source.kernels->gemm == nullptr || !source.runs_here()) continue;
    all.push_back(&kernels_named(source.kernels->name));
  }
  return all;
}

inline std::string gemm_name(const SelectedKernels* kernels) { return kernels->gemm->name; }

class OnGemmKernels : public ::testing::TestWithParam<const SelectedKernels*> {
 protected:
  Execution on(int num_threads) const { return {GetParam(), num_threads}; }
  // Plain code is slow: fewer cases of it.
  bool is_plain() const {
    const std::string name = gemm_name(GetParam());
    return name == "model" || name == "scalar";
  }
};

}  // namespace quire::testing
