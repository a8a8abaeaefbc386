"""Pools whose values are the beginnings of their keys, and twins that store both apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from conftest import DTYPES
from quantised_cases import QUANTISED, quantise

import quire

# Every kind of pool that can share, by what tests call it.
KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "float16": {"dtype": "float16"},
    "bfloat16": {},
    "int8": {"dtype": "int8"},
    "float8_e4m3fn": {"dtype": "float8_e4m3fn"},
    "float8_e5m2": {"dtype": "float8_e5m2"},
    "int8_open": {"dtype": "int8", "open_blocks": 1},
    "float8_open": {"dtype": "float8_e4m3fn", "open_blocks": 2},
}
CLOSED = [kind for kind in KINDS if not kind.endswith("_open")]


def new_pools(kind: str, num_blocks: int = 64, **options: Any) -> list[quire.BlockPool]:
    """One that shares and its twin. What no table has is NaN, of int8 its scales."""
    geometry = {"block_size": 4, "num_kv_heads": 2, "head_dim": 40, "v_head_dim": 24}
    given = {**geometry, **KINDS[kind], **options}
    pools = [quire.BlockPool(num_blocks, **given, shared=shared) for shared in (True, False)]
    for pool in pools:
        for layer in range(pool.num_layers):
            for view in views(pool, layer):
                view[...] = -128 if view.dtype == np.int8 else np.nan
    return pools


def views(pool: quire.BlockPool, layer: int) -> list[Any]:
    """All arrays of a layer."""
    found = [pool.k_cache, pool.v_cache]
    if pool.dtype.itemsize == 1:
        found += [pool.k_scale, pool.v_scale]
    if pool.open_blocks:
        found += [pool.k_open, pool.v_open]
    return [view(layer) for view in found]


def copy_values(twin: quire.BlockPool) -> None:
    """Makes the values of a pool that stores them apart what those of one that shares are."""
    size = twin.v_head_dim
    for layer in range(twin.num_layers):
        arrays = views(twin, layer)
        for k, v in zip(arrays[::2], arrays[1::2], strict=True):
            v[...] = k[..., :size] if k.ndim == 4 else k


def rows(random: np.random.Generator, pool: quire.BlockPool, tokens: int) -> Any:
    """Keys of new tokens, in every layer where there are several."""
    layers = (pool.num_layers,) if pool.num_layers > 1 else ()
    shape = (*layers, tokens, pool.num_kv_heads, pool.head_dim)
    return random.standard_normal(shape, np.float32)


def append(tables: list[quire.BlockTable], k: Any) -> None:
    """To a table of a pool that shares, and to its twin."""
    tables[0].append(k)
    tables[1].append(k, k[..., : tables[1].pool.v_head_dim])


def real(k: Any, dtype: str) -> Any:
    """What a pool without open blocks is documented to store of keys, in float64."""
    if dtype in DTYPES:
        return k.astype(DTYPES[dtype]).astype(np.float64)
    assert dtype in QUANTISED
    numbers, scales = quantise(k, dtype)
    return numbers.astype(np.float64) * scales[..., None]


def attention_bits(tables: list[quire.BlockTable], q: Any, **options: Any) -> list[bytes]:
    """Of the tables of one pool, in every layer."""
    found = []
    for layer in range(tables[0].pool.num_layers):
        out = quire.attend(q, tables, layer=layer, return_lse=True, **options)
        found += [array.tobytes() for array in out]
    return found
