"""Pools and tables of random rows, and poison where no table is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import quire


def new_pool(num_blocks: int = 64, **options: Any) -> quire.BlockPool:
    geometry = {"block_size": 4, "num_kv_heads": 2, "head_dim": 16, "dtype": "float32"}
    return quire.BlockPool(num_blocks, **{**geometry, **options})  # type: ignore[arg-type]


def pool_of_case(case: dict[str, Any], num_blocks: int) -> quire.BlockPool:
    """A pool of the block size, dtype, KV heads and head sizes that a case names."""
    head_dim, v_head_dim = case["head_dims"]
    return new_pool(
        num_blocks,
        block_size=case["block_size"],
        num_kv_heads=case["heads"][0],
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        dtype=case["dtype"],
    )


@contextmanager
def repeating(work: Callable[[], None]) -> Iterator[None]:
    """Another thread calls work() again and again meanwhile. It must not fail."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()
    assert not failures


def fill(table: quire.BlockTable, tokens: int, random: np.random.Generator) -> Any:
    """Appends random rows; returns them, as the pool holds them where it is not quantised."""
    pool = table.pool
    dtype = np.dtype(np.float32) if pool.dtype.itemsize == 1 else pool.dtype
    k = random.standard_normal((tokens, pool.num_kv_heads, pool.head_dim)).astype(dtype)
    v = random.standard_normal((tokens, pool.num_kv_heads, pool.v_head_dim)).astype(dtype)
    table.append(k, v)
    return k, v


def poison_free_blocks(pool: quire.BlockPool) -> None:
    free = np.flatnonzero(pool.ref_counts == 0)
    quantised = pool.dtype.itemsize == 1  # whose bytes are all numbers: their scales or grids
    for array in (pool.k_scale, pool.v_scale) if quantised else (pool.k_cache, pool.v_cache):
        array()[free] = np.nan
