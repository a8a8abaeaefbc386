#include "quire/cpu/kernel_list.h"

namespace quire {
namespace {

constexpr KernelSource kList[] = {{&kScalarKernels, [] { return true; }}};

}  // namespace

std::span<const KernelSource> kernel_list() { return kList; }

bool has_fast_pairs() { return false; }  // no kernel here knows them

}  // namespace quire
