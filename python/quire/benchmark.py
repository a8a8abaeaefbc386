"""Decode measured against memory and against gather, in one run."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quire import _core
from quire._core import BlockPool, paged_attention

# What the kernel reads in one go: a head's keys and values of a block of 16 tokens, 128 wide.
CHUNK_BYTES = 8192
COLD_BYTES = 1 << 29  # many times what caches hold


@dataclass(frozen=True)
class DecodeRow:
    """Median seconds of one case; ceiling: of reading the same bytes as random chunks."""

    keys: int
    batch: int
    threads: int
    fused: float
    gather: float
    ceiling: float

    @property
    def of_ceiling(self) -> float:
        """1: as fast as memory allows."""
        return self.ceiling / self.fused

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {**asdict(self), "of_ceiling": self.of_ceiling}


class ColdPool:
    """A pool larger than the caches, whose blocks are dealt in random order, each once a round."""

    def __init__(
        self,
        *,
        num_heads: int = 32,
        num_kv_heads: int = 8,
        head_dim: int = 128,
        dtype: str = "bfloat16",
        block_size: int = 16,
        seed: int = 0,
    ) -> None:
        self.random = np.random.default_rng(seed)
        item = 4 if dtype == "float32" else 2
        self.bytes_per_key = 2 * num_kv_heads * head_dim * item
        self.num_heads, self.head_dim, self.block_size = num_heads, head_dim, block_size
        self.pool = BlockPool(
            COLD_BYTES // (self.bytes_per_key * block_size),
            block_size=block_size,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            dtype=dtype,
        )
        rows = self.random.standard_normal((block_size, num_kv_heads, head_dim), np.float32)
        self.pool.k_cache()[...] = rows
        self.pool.v_cache()[...] = rows
        self._order = self.random.permutation(self.pool.num_blocks).astype(np.int32)
        self._next = 0
        self._chunks = np.zeros(COLD_BYTES, np.uint8)
        self._chunks[::4096] = 1  # pages of zeros would all be one page
        self._chunk_order = self.random.permutation(COLD_BYTES // CHUNK_BYTES)
        self._next_chunk = 0

    def tables(self, batch: int, keys: int) -> tuple[Any, Any]:
        """Block tables of blocks that were not used for longest, and lengths."""
        blocks = -(-keys // self.block_size)
        places = np.arange(self._next, self._next + batch * blocks)
        self._next = int(places[-1]) + 1
        # a batch larger than the pool comes round to its first blocks when they have gone cold
        tables = np.take(self._order, places, mode="wrap").reshape(batch, blocks)
        return tables, np.full(batch, keys, np.int32)

    def queries(self, batch: int) -> Any:
        """Random queries of the pool's dtype."""
        shape = (batch, self.num_heads, self.head_dim)
        return self.random.standard_normal(shape, np.float32).astype(self.pool.dtype)

    def read_chunks(self, num_bytes: int, threads: int) -> float:
        """Seconds to read as many bytes as chunks in random order."""
        count = -(-num_bytes // CHUNK_BYTES)
        places = np.arange(self._next_chunk, self._next_chunk + count)
        self._next_chunk = int(places[-1]) + 1
        order = np.take(self._chunk_order, places, mode="wrap")
        seconds = _core.read_chunks(self._chunks, CHUNK_BYTES, order, threads)
        return seconds * num_bytes / (count * CHUNK_BYTES)

    def attend(self, q: Any, batch: int, keys: int, implementation: Any, threads: int) -> float:
        """Seconds of one call on cold blocks."""
        tables, lengths = self.tables(batch, keys)
        k, v = self.pool.k_cache(), self.pool.v_cache()
        begin = time.perf_counter()
        paged_attention(
            q, k, v, tables, lengths, implementation=implementation, num_threads=threads
        )
        return time.perf_counter() - begin


def measure(cold: ColdPool, keys: int, batch: int, threads: int, budget: float) -> DecodeRow:
    """Interleaved runs for about `budget` seconds; medians."""
    q = cold.queries(batch)
    times: dict[str, list[float]] = {"fused": [], "gather": [], "ceiling": []}
    cold.attend(q, batch, keys, "fused", threads)
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times["fused"]) < 5:
        times["fused"].append(cold.attend(q, batch, keys, "fused", threads))
        times["ceiling"].append(cold.read_chunks(batch * keys * cold.bytes_per_key, threads))
        if len(times["gather"]) < 5 or len(times["fused"]) % 8 == 0:
            times["gather"].append(cold.attend(q, batch, keys, "gather", threads))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return DecodeRow(keys, batch, threads, **medians)


def bench(*, quick: bool = False) -> list[DecodeRow]:
    """The cases of `quire bench`: decode over contexts, batches and threads."""
    most = int(_core.build_info()["num_threads"])
    cold = ColdPool()
    contexts, batches = ((512, 4096), (1,)) if quick else ((512, 4096, 16384), (1, 4))
    return [
        measure(cold, keys, batch, threads, 0.05 if quick else 0.5)
        for threads in sorted({1, most})
        for batch in batches
        for keys in contexts
    ]
