#include "quire/cpu/cache/row_quantiser.h"

#include "quire/cpu/cache/row_magnitudes.h"
#include "quire/format/row_scale.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {

RowQuantiser::RowQuantiser(std::string_view function, std::string_view argument,
                           const ArrayView& rows, std::span<const std::int64_t> slots,
                           const ArrayView& cache, const ArrayView& scale, Layout layout,
                           const CacheKernels& kernels, int num_threads)
    : rows_(rows),
      cache_(cache),
      scale_(scale),
      layout_(layout),
      kernels_(kernels),
      largest_(magnitudes_of(function, argument, rows, slots, cache.dtype, kernels, num_threads)) {}

// A head at a time, as its tokens lie together in the cache.
void RowQuantiser::write(const SlotRun& run) const {
  const std::int64_t heads = rows_.shape[1];
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < run.count; ++i) {
      const std::int64_t token = run.row + i;
      const std::int64_t offset = run.offset + i;
      float* const scale = scale_at(scale_, run.block, offset, head);
      if (is_dynamic(scale_)) {
        *scale = scale_of_row(largest_[token * heads + head], cache_.dtype);
      }
      std::byte* const to = layout_ == Layout::NHD ? cache_.at(run.block, offset, head)
                                                   : cache_.at(run.block, head, offset);
      kernels_.quantise(rows_.at(token, head), rows_.dtype, to, cache_.dtype, rows_.shape[2],
                        *scale);
    }
  }
}

}  // namespace quire
