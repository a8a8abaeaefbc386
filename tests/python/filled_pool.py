"""Pools and tables of random rows, and poison where no table is."""

from __future__ import annotations

from typing import Any

import numpy as np

import quire


def new_pool(num_blocks: int = 64, **options: Any) -> quire.BlockPool:
    geometry = {"block_size": 4, "num_kv_heads": 2, "head_dim": 16, "dtype": "float32"}
    return quire.BlockPool(num_blocks, **{**geometry, **options})  # type: ignore[arg-type]


def fill(table: quire.BlockTable, tokens: int, random: np.random.Generator) -> Any:
    """Appends random rows; returns them as the pool holds them."""
    pool = table.pool
    k = random.standard_normal((tokens, pool.num_kv_heads, pool.head_dim)).astype(pool.dtype)
    v = random.standard_normal((tokens, pool.num_kv_heads, pool.v_head_dim)).astype(pool.dtype)
    table.append(k, v)
    return k, v


def poison_free_blocks(pool: quire.BlockPool) -> None:
    free = np.flatnonzero(pool.ref_counts == 0)
    pool.k_cache()[free] = np.nan
    pool.v_cache()[free] = np.nan
