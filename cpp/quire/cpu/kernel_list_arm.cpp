#include "quire/cpu/kernel_list.h"

namespace quire {
namespace {

// Advanced SIMD is part of every Armv8-A processor.
constexpr KernelSource kList[] = {
    {&kNeonKernels, [] { return true; }},
    {&kScalarKernels, [] { return true; }},
};

}  // namespace

std::span<const KernelSource> kernel_list() { return kList; }

bool has_fast_pairs() { return false; }  // no kernel here knows them

}  // namespace quire
