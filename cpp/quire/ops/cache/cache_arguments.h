// What attention and write_kv check alike: caches, the scales or grids beside them, and blocks that
// are open.
#pragma once

#include <optional>

#include "quire/base/array_view.h"
#include "quire/ops/argument_checker.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

struct CacheArguments {
  const ArrayView& k_cache;
  const ArrayView* v_cache;  // null: values are not written
  const std::optional<ArrayView>&k_scale, &v_scale;
  const std::optional<ArrayView>&k_open, &v_open;
  Layout layout;
  const ArgumentNames& names;
};

inline const ArrayView* given(const ArrayView& view) { return &view; }
inline const ArrayView* given(const std::optional<ArrayView>& view) { return get_if(view); }

template <class Args>
CacheArguments cache_arguments(const Args& args) {
  return {args.k_cache, given(args.v_cache), args.k_scale, args.v_scale,
          args.k_open,  args.v_open,         args.layout,  args.names};
}

// What rows of keys and of values are like, and the arguments that say so; sequences, where there
// are any, which may have scales of their own.
struct RowSizes {
  const char* k_argument;
  std::int64_t head_dim;
  const char* v_argument;
  Length v_head_dim;  // looked at where there is a v_cache
  Length num_kv_heads;
  std::optional<std::int64_t> num_seqs = std::nullopt;
};

// Numbers of keys of head_dim that k_cache does not have, as they lie in k_tail; throws where that
// does not fit the cache.
std::int64_t check_tail(const ArgumentChecker& check, const CacheArguments& caches,
                        const std::optional<ArrayView>& k_tail, std::int64_t head_dim);

// Throws where shapes, dtypes or strides are wrong, or static scales; values of dynamic ones and of
// grids are checked where they are read (cache_scales.h).
void check_caches(const ArgumentChecker& check, const CacheArguments& caches, const RowSizes& rows);

}  // namespace quire
