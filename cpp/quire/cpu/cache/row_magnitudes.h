// How large new keys, or new values, are, and which of them a quantised cache cannot hold: what is
// not finite, and in int4 what is larger than kLargestOnGrid. Nor can the open blocks beside it, of
// plain floats, what is rounded to infinity.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"
#include "quire/cpu/cache/cache_kernels.h"

namespace quire {

// Throws ValueError, with the place, for an element of rows [n, heads, length] that a cache cannot
// hold, as magnitudes_of does: for who has to know before there are slots. `where` stands before
// the place. On at most num_threads threads.
void require_finite_rows(std::string_view function, std::string_view argument,
                         std::string_view where, const ArrayView& rows, DType cache_dtype,
                         const CacheKernels& kernels, int num_threads);

// The largest magnitude of each row, [n, heads], 0 where its slot is -1. Reads all others, on at
// most num_threads threads. Throws ValueError, with the place, for one that a cache cannot hold.
std::vector<float> magnitudes_of(std::string_view function, std::string_view argument,
                                 const ArrayView& rows, std::span<const std::int64_t> slots,
                                 DType cache_dtype, const CacheKernels& kernels, int num_threads);

}  // namespace quire
