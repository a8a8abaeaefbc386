// What messages call the arrays of a call.
//
// Who attends over block tables, or appends to one, has passed neither caches nor ids: these are
// the pool's and the tables'. So messages name what the caller knows, and where sizes do not fit
// together the caches are right.
#pragma once

namespace quire {

struct ArgumentNames {
  const char* k_cache = "k_cache";
  const char* v_cache = "v_cache";
  const char* k_scale = "k_scale";
  const char* v_scale = "v_scale";
  const char* k_open = "k_open";
  const char* v_open = "v_open";
  const char* block_tables = "block_tables";
  const char* seq_lens = "seq_lens";
  bool caches_are_right = false;
};

// Of a call whose caches are those of a pool, and whose ids and lengths those of `tables`.
inline constexpr ArgumentNames kNamesOfPool = {
    .k_cache = "pool.k_cache()",
    .v_cache = "pool.v_cache()",
    .k_scale = "pool.k_scale()",
    .v_scale = "pool.v_scale()",
    .k_open = "pool.k_open()",
    .v_open = "pool.v_open()",
    .block_tables = "tables",
    .seq_lens = "tables",
    .caches_are_right = true,
};

}  // namespace quire
