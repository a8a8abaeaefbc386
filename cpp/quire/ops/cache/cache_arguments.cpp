#include "quire/ops/cache/cache_arguments.h"

#include <cmath>

#include "quire/format/cache_format.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

using Checker = ArgumentChecker;

// Sizes of a cache of four axes.
struct CacheSizes {
  std::int64_t num_blocks, block_size, heads, last;
};

CacheSizes sizes_of(const ArrayView& cache, Layout layout) {
  const bool nhd = layout == Layout::NHD;
  return {cache.shape[0], cache.shape[nhd ? 1 : 2], cache.shape[nhd ? 2 : 1], cache.shape[3]};
}

bool has_grids(const ArrayView& cache) { return format_of(cache.dtype).scales == ScaleKind::grids; }

// Two numbers of a row may share a byte.
void check_even(const Checker& check, std::string_view argument, Length head_size, DType dtype) {
  if (!head_size || *head_size % numbers_of(dtype) == 0) return;
  check.fail<ValueError>(argument, "got a last axis of ", *head_size,
                         ", expected an even one for caches of ", name_of(dtype));
}

// Shapes for messages, of one or two numbers in an element and in layout NHD or not.
struct Spelled {
  const char *k_cache, *v_cache;
};
constexpr Spelled kSpelled[2][2] = {{{"[num_blocks, Hkv, block_size, D] in layout HND",
                                      "[num_blocks, Hkv, block_size, Dv], as k_cache"},
                                     {"[num_blocks, block_size, Hkv, D] in layout NHD",
                                      "[num_blocks, block_size, Hkv, Dv], as k_cache"}},
                                    {{"[num_blocks, Hkv, block_size, D / 2] in layout HND",
                                      "[num_blocks, Hkv, block_size, Dv / 2], as k_cache"},
                                     {"[num_blocks, block_size, Hkv, D / 2] in layout NHD",
                                      "[num_blocks, block_size, Hkv, Dv / 2], as k_cache"}}};

// k_cache and v_cache: one shape but for the last axis.
void check_shapes(const Checker& check, const CacheArguments& caches, const RowSizes& rows) {
  const ArrayView& k_cache = caches.k_cache;
  const ArrayView* const v_cache = caches.v_cache;
  const bool nhd = caches.layout == Layout::NHD;
  if (v_cache != nullptr && has_grids(k_cache) != has_grids(*v_cache)) {
    const bool grids = has_grids(k_cache);
    check.fail<TypeError>("v_cache", "got ", name_of(v_cache->dtype), ", expected ",
                          grids ? "" : "no ", name_of(grids ? k_cache.dtype : v_cache->dtype),
                          " (uint8), as k_cache is of ", name_of(k_cache.dtype));
  }
  check_even(check, rows.k_argument, rows.head_dim, k_cache.dtype);
  if (v_cache != nullptr) check_even(check, rows.v_argument, rows.v_head_dim, v_cache->dtype);
  const auto row_length = [&](Length numbers) {
    return numbers ? Length(*numbers / numbers_of(k_cache.dtype)) : std::nullopt;
  };
  // a cache of no blocks is legal: every sequence is then empty
  const Length blocks = k_cache.ndim == 4 ? Length(k_cache.shape[0]) : std::nullopt;
  const Length heads = rows.num_kv_heads;
  const Spelled& spelled = kSpelled[numbers_of(k_cache.dtype) - 1][nhd];
  check.array(
      "k_cache", k_cache,
      {blocks, nhd ? std::nullopt : heads, nhd ? heads : std::nullopt, row_length(rows.head_dim)},
      spelled.k_cache);
  if (v_cache == nullptr) return;
  check.array("v_cache", *v_cache,
              {k_cache.shape[0], k_cache.shape[1], k_cache.shape[2], row_length(rows.v_head_dim)},
              spelled.v_cache);
}

// The grids of a cache, whose axes are as `lengths`; the last `contiguous` follow one
// another.
void check_grids(const Checker& check, std::string_view argument, const ArrayView& grids,
                 std::initializer_list<Length> lengths, int contiguous, const char* spelled) {
  if (grids.ndim == 0) {
    check.fail<ValueError>(argument, "got a number, expected float16 ", spelled);
  }
  if (grids.dtype != DType::float16) {
    check.fail<TypeError>(argument, "got ", name_of(grids.dtype), ", expected float16 ", spelled);
  }
  check.strided_array(argument, grids, lengths, spelled);
  if (is_empty(grids)) return;
  std::int64_t expected = size_of(DType::float16);
  for (int axis = 3; axis > 3 - contiguous; --axis) {
    if (grids.strides[axis] != expected) {
      check.fail<ValueError>(argument, "got strides of ", counted(grids.strides[axis], "byte"),
                             " on axis ", axis, ", expected ", expected);
    }
    expected *= grids.shape[axis];
  }
}

// Static scales, or those of a sequence.
void check_values(const Checker& check, std::string_view argument, const ArrayView& scale,
                  std::optional<std::int64_t> seq) {
  const std::int64_t count = scale.ndim == 0 ? 1 : scale.shape[0];
  for (std::int64_t head = 0; head < count; ++head) {
    const float value = *scale_at(scale, 0, 0, head);
    if (std::isfinite(value) && value > 0) continue;
    check.fail<ValueError>(argument, "got ", value, " at ",
                           seq ? concat("sequence ", *seq, ", ") : "", "head ", head,
                           ", expected a positive finite number");
  }
}

// The scales of a cache's rows.
void check_scale(const Checker& check, std::string_view argument, const ArrayView& scale,
                 const CacheSizes& sizes, std::optional<std::int64_t> num_seqs) {
  if (scale.dtype != DType::float32) {
    check.fail<TypeError>(argument, "got ", name_of(scale.dtype), ", expected float32");
  }
  const char* const spelled =
      num_seqs ? "[num_blocks, block_size, Hkv] in either layout, [B, Hkv], [Hkv], [1] or a number"
               : "[num_blocks, block_size, Hkv] in either layout, [Hkv], [1] or a number";
  if (scale.ndim == 1)
    check.array(argument, scale, {scale.shape[0] == 1 ? 1 : sizes.heads}, spelled);
  if (scale.ndim <= 1) return check_values(check, argument, scale, std::nullopt);
  if (num_seqs && is_of_each(scale)) {
    check.strided_array(argument, scale, {num_seqs, sizes.heads}, spelled);
    for (std::int64_t seq = 0; seq < *num_seqs; ++seq) {
      check_values(check, argument, scale_of_sequence(scale, seq), seq);
    }
    return;
  }
  check.strided_array(argument, scale, {sizes.num_blocks, sizes.block_size, sizes.heads}, spelled);
}

// k_scale or v_scale; null where `cache`, of `cache_name`, has none.
const ArrayView* scales_of(const Checker& check, std::string_view argument,
                           const std::optional<ArrayView>& scale, std::string_view cache_name,
                           const ArrayView& cache) {
  if (is_quantised(cache.dtype) && !scale) {
    check.fail<ValueError>(argument, "got None, expected the ",
                           has_grids(cache) ? "grids" : "scales", " of a ", cache_name, " of ",
                           name_of(cache.dtype));
  }
  if (!is_quantised(cache.dtype) && scale) {
    check.fail<ValueError>(argument, "got a scale for a ", cache_name, " of ", name_of(cache.dtype),
                           ", expected None");
  }
  return get_if(scale);
}

void check_scales(const Checker& check, const CacheArguments& caches,
                  std::optional<std::int64_t> num_seqs) {
  const CacheSizes k = sizes_of(caches.k_cache, caches.layout);
  if (const auto* scale =
          scales_of(check, "k_scale", caches.k_scale, caches.names.k_cache, caches.k_cache)) {
    if (has_grids(caches.k_cache)) {
      check_grids(check, "k_scale", *scale, {k.num_blocks, k.heads, 2 * k.last, 2}, 2,
                  "[num_blocks, Hkv, D, 2] in either layout, each channel's step and middle");
    } else {
      check_scale(check, "k_scale", *scale, k, num_seqs);
    }
  }
  if (caches.v_cache == nullptr) return;
  const CacheSizes v = sizes_of(*caches.v_cache, caches.layout);
  if (const auto* scale =
          scales_of(check, "v_scale", caches.v_scale, caches.names.v_cache, *caches.v_cache)) {
    if (has_grids(*caches.v_cache)) {
      check_grids(check, "v_scale", *scale, {v.num_blocks, v.block_size, v.heads, 2}, 1,
                  "[num_blocks, block_size, Hkv, 2] in either layout, each row's step and middle");
    } else {
      check_scale(check, "v_scale", *scale, v, num_seqs);
    }
  }
}

void check_open(const Checker& check, const CacheArguments& caches) {
  const std::optional<ArrayView>&k_open = caches.k_open, &v_open = caches.v_open;
  for (const auto& [name, open] : {std::pair{"k_open", &k_open}, std::pair{"v_open", &v_open}}) {
    for (const auto& [cache_name, cache] :
         {std::pair{"k_cache", &caches.k_cache}, std::pair{"v_cache", caches.v_cache}}) {
      if (cache == nullptr || !*open || is_quantised(cache->dtype)) continue;
      check.fail<ValueError>(name, "got open blocks beside a ", cache_name, " of ",
                             name_of(cache->dtype), ", expected None");
    }
  }
  if (caches.v_cache != nullptr && k_open.has_value() != v_open.has_value()) {
    check.fail<ValueError>(k_open ? "v_open" : "k_open", "got None, expected open blocks as ",
                           k_open ? "k_open" : "v_open", " has");
  }
  if (!k_open) return;
  const auto check_one = [&](const char* name, const ArrayView& open, const ArrayView& cache,
                             Length number, const char* spelled) {
    const std::int64_t row = cache.shape[3] * numbers_of(cache.dtype);
    if (!number) {
      check.fail<ValueError>(name, "got shape ", shape_text(open), ", expected [num_open, ",
                             cache.shape[1], ", ", cache.shape[2], ", ", row, "] (", spelled, ")");
    }
    check.array(name, open, {number, cache.shape[1], cache.shape[2], row}, spelled);
    check.plain_floats(name, open);
  };
  // as many as it has, or else as the other one
  const Length blocks = k_open->ndim == 4             ? Length(k_open->shape[0])
                        : v_open && v_open->ndim == 4 ? Length(v_open->shape[0])
                                                      : std::nullopt;
  check_one("k_open", *k_open, caches.k_cache, blocks, "[num_open, ...] with blocks as k_cache, D");
  if (caches.v_cache == nullptr || !v_open) return;
  check_one("v_open", *v_open, *caches.v_cache, blocks, "as k_open, with blocks as v_cache, Dv");
}

}  // namespace

std::int64_t check_tail(const ArgumentChecker& check, const CacheArguments& caches,
                        const std::optional<ArrayView>& k_tail, std::int64_t head_dim) {
  const ArrayView& k = caches.k_cache;
  if (!k_tail || k.ndim != 4) return 0;  // of other axes k_cache is refused itself
  if (has_grids(k)) {
    check.fail<TypeError>("k_tail", "got one beside a k_cache of ", name_of(k.dtype),
                          ", expected None");
  }
  if (caches.k_open) {
    check.fail<ValueError>("k_tail", "got one beside open blocks, expected None");
  }
  if (k_tail->dtype != k.dtype) {
    check.fail<TypeError>("k_tail", "got ", name_of(k_tail->dtype), ", expected ", name_of(k.dtype),
                          ", the dtype of k_cache");
  }
  check.array("k_tail", *k_tail, {k.shape[0], k.shape[1], k.shape[2], std::nullopt},
              "as k_cache, with the last Dt numbers of keys");
  if (k_tail->shape[3] >= head_dim) {
    check.fail<ValueError>("k_tail", "got a last axis of ", k_tail->shape[3],
                           ", expected less than D of q, ", head_dim);
  }
  return k_tail->shape[3];
}

void check_caches(const ArgumentChecker& check, const CacheArguments& caches,
                  const RowSizes& rows) {
  check_shapes(check, caches, rows);
  check_scales(check, caches, rows.num_seqs);
  check_open(check, caches);
}

}  // namespace quire
