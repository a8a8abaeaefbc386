"""Pools in a file with the twins they should be like, and how much of them is in memory."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import quire

HEADS, KV_HEADS, HEAD_DIM, LAYERS, NUM_BLOCKS = 8, 2, 128, 2, 256
SLAB = 16 * KV_HEADS * HEAD_DIM * 2 * 2  # a block of one layer: 16 KiB
LEAST = (4 * 17 + 2 * LAYERS) * SLAB  # 255 tokens lie in 17 blocks
PAGE = os.sysconf("SC_PAGESIZE")

# Pools of every dtype, and those whose last blocks are open, by what tests call them.
KINDS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "int8": {"dtype": "int8"},
    "float8": {"dtype": "float8_e4m3fn"},
    "int4": {"dtype": "int4"},
    "int8_open": {"dtype": "int8", "open_blocks": 1},
    "float8_open": {"dtype": "float8_e4m3fn", "open_blocks": 1},
}


def least(tables: int, **options: Any) -> int:
    """LEAST, and with open blocks what so many tables keep for truncate: 64 tokens in 4 blocks."""
    is_open = options.get("open_blocks") or options.get("dtype") == "int4"
    return LEAST + (tables * 4 * 2 * LAYERS * SLAB // 2 if is_open else 0)


def new_pool(path: Path | None, resident: int | None = LEAST, **options: Any) -> quire.BlockPool:
    """8 MiB of blocks, in bfloat16."""
    geometry: dict[str, Any] = {"num_kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    if path is not None:
        geometry |= {"backing_file": path, "resident_bytes": resident}
    return quire.BlockPool(NUM_BLOCKS, **{**geometry, "num_layers": LAYERS, **options})


def pages_in_memory(view: Any, nbytes: int) -> int:
    states = (ctypes.c_ubyte * (nbytes // PAGE))()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    assert mincore(view.__array_interface__["data"][0], nbytes, states) == 0
    return int((np.frombuffer(bytes(states), np.uint8) & 1).sum())


def slot_bytes(pool: quire.BlockPool) -> int:
    """What an open block takes, in all layers."""
    return int(pool.k_open().strides[0]) if pool.open_blocks else 0


def in_memory(pool: quire.BlockPool) -> int:
    """Bytes of the pool that are in memory, mapped or not, as the system counts them, with those of
    open blocks; 0 where the file's own disk is memory, and nothing can leave it."""
    pages = pages_in_memory(pool.k_cache(), pool.nbytes)
    if pages * PAGE == pool.nbytes:
        return 0
    if pool.open_blocks:
        pages += pages_in_memory(pool.k_open(), pool.num_blocks * slot_bytes(pool))
    return pages * PAGE


class MostInMemory:
    """The most bytes of a pool that were in memory while it was entered, looked at all the time.

    A look takes its time, and may count what comes and what goes meanwhile: so the least of three
    in a row counts, and a little more than there should be is allowed.
    """

    def __init__(self, pool: quire.BlockPool) -> None:
        self.pool, self.bytes, self.stopped = pool, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        looks = [0, 0, 0]
        while not self.stopped.is_set():
            looks = [*looks[1:], in_memory(self.pool)]
            self.bytes = max(self.bytes, min(looks))

    def __enter__(self) -> MostInMemory:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopped.set()
        self.thread.join()

    def expect_at_most(self, resident: int) -> None:
        """And after it exactly that."""
        assert self.bytes <= resident * 5 // 4
        assert in_memory(self.pool) <= resident


def rows(rng: np.random.Generator, tokens: int) -> tuple[Any, Any]:
    shape = (2, LAYERS, tokens, KV_HEADS, HEAD_DIM)
    k, v = rng.standard_normal(shape, np.float32)
    return k, v


def poison(pool: quire.BlockPool) -> None:
    """NaN in every slot, and in every scale where there are some; of open rows in a pool in memory
    alone, as in a file they would take memory from then on."""
    quantised = pool.dtype.itemsize == 1
    for layer in range(LAYERS):
        views = [pool.k_scale, pool.v_scale] if quantised else [pool.k_cache, pool.v_cache]
        if pool.open_blocks and pool.stats().resident_bytes == pool.nbytes:
            views += [pool.k_open, pool.v_open]
        for view in views:
            view(layer)[:] = np.nan
    pool.release(pool.allocate(NUM_BLOCKS))  # what views touch counts from here on


def twins(path: Path, lengths: list[int], resident: int | None = None, **options: Any) -> Any:
    """Tables of the same tokens in a pool in memory and in one in a file, block by block in turn,
    so that a sequence's blocks are scattered; every other slot is NaN."""
    resident = resident or least(len(lengths), **options)
    pools = new_pool(None, **options), new_pool(path, resident, **options)
    for pool in pools:
        poison(pool)
    tables = [[quire.BlockTable(pool) for _ in lengths] for pool in pools]
    rng = np.random.default_rng(0)
    left = list(lengths)
    while any(left):
        for i, n in enumerate(left):
            k, v = rows(rng, min(n, 37))
            for ours in tables:
                ours[i].append(k, v)
            left[i] -= min(n, 37)
    return pools, tables


def both(tables: Any, q: Any, **options: Any) -> list[tuple[bytes, ...]]:
    """The bits of attention over both, in each layer."""
    return [
        tuple(
            b"".join(
                a.tobytes() for a in quire.attend(q, ours, layer=i, return_lse=True, **options)
            )
            for ours in tables
        )
        for i in range(LAYERS)
    ]
