// Rows of new keys, or of new values, into the slots of a quantised cache that has scales.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "quire/cpu/cache/cache_kernels.h"
#include "quire/cpu/cache/row_writer.h"
#include "quire/ops/cache/write_kv.h"

namespace quire {

// Writes k [n, heads, length] to k_cache and k_scale, or v to v_cache and v_scale: what WriteKvArgs
// says of quantised caches.
class RowQuantiser {
 public:
  // Reads all rows whose slot is not -1, on at most num_threads threads. Throws ValueError, with
  // the place, for one that is not finite.
  RowQuantiser(std::string_view function, std::string_view argument, const ArrayView& rows,
               std::span<const std::int64_t> slots, const ArrayView& cache, const ArrayView& scale,
               Layout layout, const CacheKernels& kernels, int num_threads);

  void write(const SlotRun& run) const;

 private:
  ArrayView rows_, cache_, scale_;
  Layout layout_;
  const CacheKernels& kernels_;
  std::vector<float> largest_;  // [n, heads]: magnitude of each row
};

}  // namespace quire
