// Rows of new keys, or of new values, into the slots of a quantised cache.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "quire/attention/write_kv.h"
#include "quire/cpu/kernels.h"
#include "quire/cpu/row_writer.h"

namespace quire {

// Throws ValueError, with the place, for an element of rows [n, heads, length] that is not finite,
// as RowQuantiser does: for who has to know before there are slots. `where` stands before the
// place.
void require_finite_rows(std::string_view function, std::string_view argument,
                         std::string_view where, const ArrayView& rows, DType cache_dtype,
                         const Kernels& kernels);

// Writes k [n, heads, length] to k_cache and k_scale, or v to v_cache and v_scale: what WriteKvArgs
// says of quantised caches.
class RowQuantiser {
 public:
  // Reads all rows whose slot is not -1, on at most num_threads threads. Throws ValueError, with
  // the place, for one that is not finite.
  RowQuantiser(std::string_view function, std::string_view argument, const ArrayView& rows,
               std::span<const std::int64_t> slots, const ArrayView& cache, const ArrayView& scale,
               Layout layout, const Kernels& kernels, int num_threads);

  void write(const SlotRun& run) const;

 private:
  void measure(std::span<const std::int64_t> slots, int num_threads);
  void require_finite(std::string_view function, std::string_view argument,
                      std::span<const std::int64_t> slots) const;

  ArrayView rows_, cache_, scale_;
  Layout layout_;
  const Kernels& kernels_;
  std::vector<float> largest_;  // [n, heads]: magnitude of each row
};

}  // namespace quire
