"""Quire in peers.py: fused attention over the blocks of a pool, in random order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from peers_cases import BLOCK_SIZE, HEAD_DIM, KV_HEADS, Inputs

import quire


class QuireFused:
    """A pool with every copy in it."""

    note = "bfloat16"

    def __init__(self, inputs: Inputs) -> None:
        self._q = inputs.q
        self._tables = inputs.shuffled_tables()
        self._lengths = np.array([inputs.case.keys], np.int32)
        self._cu_seqlens_q = np.array([0, inputs.case.queries], np.int32)
        pool = quire.BlockPool(
            self._tables.size, block_size=BLOCK_SIZE, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM
        )
        self._k, self._v = pool.k_cache(), pool.v_cache()
        for cache, rows in ((self._k, inputs.k), (self._v, inputs.v)):
            cache[self._tables] = rows.reshape(-1, *cache.shape[1:])
        self._threads = 1

    def use_threads(self, threads: int) -> None:
        """Threads are an argument of the call."""
        self._threads = threads

    def run(self, copy: int) -> Any:
        """[queries, HEADS, HEAD_DIM]."""
        return quire.paged_attention(
            self._q,
            self._k,
            self._v,
            self._tables[copy : copy + 1],
            self._lengths,
            cu_seqlens_q=self._cu_seqlens_q,
            implementation="fused",
            num_threads=self._threads,
        )

    def rows(self, result: Any) -> npt.NDArray[np.float32]:
        """As it is."""
        rows: npt.NDArray[np.float32] = result.astype(np.float32)
        return rows
