#include "quire/cpu/cache/row_magnitudes.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "quire/base/check.h"
#include "quire/base/float_mode.h"
#include "quire/base/thread_pool.h"
#include "quire/format/cache_format.h"

namespace quire {
namespace {

// Tokens that a thread measures at a time, and the elements that pay for one more.
constexpr std::int64_t kTokensAtOnce = 64;
constexpr std::int64_t kElementsPerThread = 128 * 1024;

// Calls visit(token) for each token of rows [n, heads, length].
template <class Visit>
void for_tokens_on_threads(const ArrayView& rows, int num_threads, Visit visit) {
  const std::int64_t tokens = rows.shape[0];
  const std::int64_t parts = tokens / kTokensAtOnce + (tokens % kTokensAtOnce != 0);
  const std::int64_t elements = tokens * rows.shape[1] * rows.shape[2];
  deal(crew_for(elements, kElementsPerThread, parts, num_threads), parts,
       [&](std::int64_t part, int) {
         const std::int64_t end = std::min((part + 1) * kTokensAtOnce, tokens);
         for (std::int64_t token = part * kTokensAtOnce; token < end; ++token) visit(token);
       });
}

// Whether a cache can hold a number of this magnitude, NaN where it is not finite.
bool fits(float magnitude, DType cache_dtype) {
  if (!std::isfinite(magnitude)) return false;
  const CacheFormat& format = format_of(cache_dtype);
  if (format.scales != ScaleKind::none) return magnitude <= format.largest;
  return visit_dtype(cache_dtype, [magnitude](auto type) {
    return std::isfinite(to_float(from_float<decltype(type)>(magnitude)));
  });
}

// Says that a row of a head holds what does not fit, and where; `after` follows the place.
template <class... Parts>
[[noreturn]] void refuse_row(std::string_view function, std::string_view argument,
                             std::string_view where, const ArrayView& rows, std::int64_t row,
                             std::int64_t head, DType cache_dtype, const Parts&... after) {
  const CacheFormat& format = format_of(cache_dtype);
  visit_dtype(rows.dtype, [&](auto type) {
    const auto* first = reinterpret_cast<const decltype(type)*>(rows.at(row, head));
    const auto* found = std::find_if(first, first + rows.shape[2], [&](auto x) {
      return !fits(std::fabs(to_float(x)), cache_dtype);
    });
    const bool is_there = found != first + rows.shape[2];  // unless it changed meanwhile
    raise<ValueError>(
        place(function, argument), "got ", is_there ? to_float(*found) : NAN, " at ", where, "row ",
        row, ", head ", head, ", element ", found - first, after..., ", expected finite numbers ",
        std::isfinite(format.largest) ? concat("of at most ", format.largest, " in magnitude ")
                                      : "",
        format.scales != ScaleKind::none ? "for a cache of " : "when rounded to ",
        name_of(cache_dtype));
  });
  __builtin_unreachable();
}

}  // namespace

void require_finite_rows(std::string_view function, std::string_view argument,
                         std::string_view where, const ArrayView& rows, DType cache_dtype,
                         const CacheKernels& kernels, int num_threads) {
  const DefaultFloatMode mode;
  const std::int64_t heads = rows.shape[1];
  std::atomic<bool> fit_all{true};
  for_tokens_on_threads(rows, num_threads, [&](std::int64_t token) {
    for (std::int64_t head = 0; head < heads; ++head) {
      const float largest = kernels.largest(rows.at(token, head), rows.dtype, rows.shape[2]);
      if (!fits(largest, cache_dtype)) fit_all.store(false, std::memory_order_relaxed);
    }
  });
  for (std::int64_t i = 0; !fit_all && i < rows.shape[0] * heads; ++i) {  // the first is named
    const std::int64_t row = i / heads, head = i % heads;
    const float largest = kernels.largest(rows.at(row, head), rows.dtype, rows.shape[2]);
    if (fits(largest, cache_dtype)) continue;
    refuse_row(function, argument, where, rows, row, head, cache_dtype);
  }
}

std::vector<float> magnitudes_of(std::string_view function, std::string_view argument,
                                 const ArrayView& rows, std::span<const std::int64_t> slots,
                                 DType cache_dtype, const CacheKernels& kernels, int num_threads) {
  const std::int64_t heads = rows.shape[1];
  std::vector<float> largest(static_cast<std::size_t>(rows.shape[0] * heads));
  for_tokens_on_threads(rows, num_threads, [&](std::int64_t token) {
    if (slots[token] < 0) return;
    for (std::int64_t head = 0; head < heads; ++head) {
      largest[token * heads + head] =
          kernels.largest(rows.at(token, head), rows.dtype, rows.shape[2]);
    }
  });
  const auto wrong = std::find_if(largest.begin(), largest.end(),
                                  [&](float magnitude) { return !fits(magnitude, cache_dtype); });
  if (wrong != largest.end()) {
    const std::int64_t row = (wrong - largest.begin()) / heads;
    refuse_row(function, argument, "", rows, row, (wrong - largest.begin()) % heads, cache_dtype,
               ", which goes to slot ", slots[row]);
  }
  return largest;
}

}  // namespace quire
