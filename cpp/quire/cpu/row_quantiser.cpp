#include "quire/cpu/row_quantiser.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "quire/attention/cache_scales.h"
#include "quire/base/check.h"
#include "quire/base/thread_pool.h"

namespace quire {
namespace {

// Tokens that a thread measures at a time, and the elements that pay for waking one more.
constexpr std::int64_t kTokensAtOnce = 64;
constexpr std::int64_t kElementsPerThread = 128 * 1024;

// Says that a row of a head holds what is not finite, and where; `after` follows the place.
template <class... Parts>
[[noreturn]] void refuse_row(std::string_view function, std::string_view argument,
                             std::string_view where, const ArrayView& rows, std::int64_t row,
                             std::int64_t head, DType cache_dtype, const Parts&... after) {
  visit_dtype(rows.dtype, [&](auto type) {
    const auto* first = reinterpret_cast<const decltype(type)*>(rows.at(row, head));
    const auto* found = std::find_if(first, first + rows.shape[2],
                                     [](auto x) { return !std::isfinite(to_float(x)); });
    const bool is_there = found != first + rows.shape[2];  // unless it changed meanwhile
    raise<ValueError>(place(function, argument), "got ", is_there ? to_float(*found) : NAN, " at ",
                      where, "row ", row, ", head ", head, ", element ", found - first, after...,
                      ", expected finite numbers for a cache of ", name_of(cache_dtype));
  });
  __builtin_unreachable();
}

}  // namespace

void require_finite_rows(std::string_view function, std::string_view argument,
                         std::string_view where, const ArrayView& rows, DType cache_dtype,
                         const Kernels& kernels) {
  for (std::int64_t row = 0; row < rows.shape[0]; ++row) {
    for (std::int64_t head = 0; head < rows.shape[1]; ++head) {
      const float largest = kernels.largest(rows.at(row, head), rows.dtype, rows.shape[2]);
      if (std::isfinite(largest)) continue;
      refuse_row(function, argument, where, rows, row, head, cache_dtype);
    }
  }
}

RowQuantiser::RowQuantiser(std::string_view function, std::string_view argument,
                           const ArrayView& rows, std::span<const std::int64_t> slots,
                           const ArrayView& cache, const ArrayView& scale, Layout layout,
                           const Kernels& kernels, int num_threads)
    : rows_(rows),
      cache_(cache),
      scale_(scale),
      layout_(layout),
      kernels_(kernels),
      largest_(static_cast<std::size_t>(rows.shape[0] * rows.shape[1])) {
  measure(slots, num_threads);
  require_finite(function, argument, slots);
}

void RowQuantiser::measure(std::span<const std::int64_t> slots, int num_threads) {
  const std::int64_t tokens = rows_.shape[0], heads = rows_.shape[1], length = rows_.shape[2];
  const std::int64_t useful = 1 + tokens * heads * length / kElementsPerThread;
  std::atomic<std::int64_t> next{0};
  run_on_threads(static_cast<int>(std::min<std::int64_t>(useful, num_threads)), [&](int) {
    for (std::int64_t first = next.fetch_add(kTokensAtOnce); first < tokens;
         first = next.fetch_add(kTokensAtOnce)) {
      const std::int64_t end = std::min(first + kTokensAtOnce, tokens);
      for (std::int64_t token = first; token < end; ++token) {
        if (slots[token] < 0) continue;
        for (std::int64_t head = 0; head < heads; ++head) {
          largest_[token * heads + head] =
              kernels_.largest(rows_.at(token, head), rows_.dtype, length);
        }
      }
    }
  });
}

void RowQuantiser::require_finite(std::string_view function, std::string_view argument,
                                  std::span<const std::int64_t> slots) const {
  const auto wrong = std::find_if(largest_.begin(), largest_.end(),
                                  [](float largest) { return !std::isfinite(largest); });
  if (wrong == largest_.end()) return;
  const std::int64_t row = (wrong - largest_.begin()) / rows_.shape[1];
  const std::int64_t head = (wrong - largest_.begin()) % rows_.shape[1];
  refuse_row(function, argument, "", rows_, row, head, cache_.dtype, ", which goes to slot ",
             slots[row]);
}

// A head at a time, as its tokens lie together in the cache.
void RowQuantiser::write(const SlotRun& run) const {
  constexpr float kSmallest = std::numeric_limits<float>::min();
  const std::int64_t heads = rows_.shape[1];
  const float most = largest_of(cache_.dtype);
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < run.count; ++i) {
      const std::int64_t token = run.row + i;
      const std::int64_t offset = run.offset + i;
      float* const scale = scale_at(scale_, run.block, offset, head);
      if (is_dynamic(scale_)) *scale = std::max(largest_[token * heads + head] / most, kSmallest);
      std::byte* const to = layout_ == Layout::NHD ? cache_.at(run.block, offset, head)
                                                   : cache_.at(run.block, head, offset);
      kernels_.quantise(rows_.at(token, head), rows_.dtype, to, cache_.dtype, rows_.shape[2],
                        *scale);
    }
  }
}

}  // namespace quire
