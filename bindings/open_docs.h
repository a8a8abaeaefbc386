// What help() shows of the open blocks of a pool; see docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kKOpen =
    R"(k_open(self, layer=0)
--

A writable view of a layer's open keys, bfloat16 [num_blocks, block_size, num_kv_heads, head_dim].

Of a pool whose tables have their last blocks in full precision: block num_blocks + i of pack_tables
is k_open()[i]. Memory is used by those that have been open at the same time alone. Nothing is copied,
and the view keeps the pool alive. Raises TypeError for a pool without open_blocks, IndexError for an
unknown layer.

Example:
    >>> write_kv(k, v, pool.k_cache(), pool.v_cache(), table.extend(len(k)), k_scale=pool.k_scale(),
    ...          v_scale=pool.v_scale(), k_open=pool.k_open(), v_open=pool.v_open())
)";

inline constexpr const char* kVOpen =
    R"(v_open(self, layer=0)
--

A writable view of a layer's open values, bfloat16 [num_blocks, block_size, num_kv_heads,
v_head_dim], as k_open has the keys. Of a pool with shared=True it is k_open(layer)[..., :v_head_dim].

Raises TypeError for a pool without open_blocks, IndexError for an unknown layer.

Example:
    >>> out = paged_attention(q, pool.k_cache(), pool.v_cache(), *pack_tables(tables),
    ...                       k_scale=pool.k_scale(), v_scale=pool.v_scale(), k_open=pool.k_open(),
    ...                       v_open=pool.v_open())
)";

}  // namespace quire::python::docs
