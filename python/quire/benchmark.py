"""Decode measured against memory and against gather, in one run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quire import _core
from quire._core import BlockPool, paged_attention

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE, DTYPE = 32, 8, 128, 16, "bfloat16"
BYTES_PER_KEY = 2 * NUM_KV_HEADS * HEAD_DIM * 2
# The pieces in which paging places memory, as the kernel reads them: one head's keys and values of
# one block lie together. The ceiling is read in pieces of the same size.
CHUNK_BYTES = BLOCK_SIZE * 2 * HEAD_DIM * 2


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
        """Speed as a part of memory's: 1 is as fast as memory allows."""
        return self.ceiling / self.fused

    @property
    def over_gather(self) -> float:
        """How many times as fast as gather."""
        return self.gather / self.fused

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {**asdict(self), "of_ceiling": self.of_ceiling, "over_gather": self.over_gather}


class ColdPool:
    """A pool larger than the caches, whose blocks are dealt in random order, each once a round.

    (32, 8) heads, head size 128, bfloat16, blocks of 16 tokens.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        num_bytes = cold_bytes()
        self.pool = BlockPool(
            num_bytes // (BYTES_PER_KEY * BLOCK_SIZE),
            block_size=BLOCK_SIZE,
            num_kv_heads=NUM_KV_HEADS,
            head_dim=HEAD_DIM,
            dtype=DTYPE,
        )
        rows = self.random.standard_normal((BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM), np.float32)
        self.pool.k_cache()[...] = rows
        self.pool.v_cache()[...] = rows
        self._blocks = _Deck(self.random.permutation(self.pool.num_blocks).astype(np.int32))
        self._memory = np.zeros(num_bytes, np.uint8)
        self._memory[::4096] = 1  # untouched pages would all be the one page of zeros
        self._chunks = _Deck(self.random.permutation(num_bytes // CHUNK_BYTES))

    def tables(self, batch: int, keys: int) -> npt.NDArray[np.int32]:
        """Tables [batch, blocks] of the blocks that have not been used for longest."""
        blocks = -(-keys // BLOCK_SIZE)
        return self._blocks.deal(batch * blocks).reshape(batch, blocks)

    def queries(self, batch: int) -> npt.NDArray[Any]:
        """Random queries of the pool's dtype."""
        q = self.random.standard_normal((batch, NUM_HEADS, HEAD_DIM), np.float32)
        return q.astype(self.pool.dtype)

    def read_chunks(self, num_bytes: int, threads: int) -> float:
        """Seconds to read as many bytes as chunks in random order."""
        order = self._chunks.deal(-(-num_bytes // CHUNK_BYTES))
        seconds = _core.read_chunks(self._memory, CHUNK_BYTES, order, threads)
        return seconds * num_bytes / (len(order) * CHUNK_BYTES)

    def attend(
        self,
        batch: int,
        keys: int,
        implementation: Literal["fused", "gather", "dense"],
        threads: int,
    ) -> float:
        """Seconds of one decode step on cold blocks."""
        q, tables = self.queries(batch), self.tables(batch, keys)
        lengths = np.full(batch, keys, np.int32)
        k, v = self.pool.k_cache(), self.pool.v_cache()
        begin = time.perf_counter()
        paged_attention(
            q, k, v, tables, lengths, implementation=implementation, num_threads=threads
        )
        return time.perf_counter() - begin


class _Deck:
    """Deals a permutation round and round: what was dealt longest ago comes next.

    One deal of more than there is comes round to its own beginning, which has gone cold by then.
    """

    def __init__(self, order: npt.NDArray[Any]) -> None:
        self._order = order
        self._next = 0

    def deal(self, count: int) -> npt.NDArray[Any]:
        places = np.arange(self._next, self._next + count)
        self._next = (self._next + count) % len(self._order)
        return np.take(self._order, places, mode="wrap")


def cold_bytes() -> int:
    """Bytes that drive all else from the caches: 512 MiB, or four times the last level."""
    names = [
        name for name in os.sysconf_names if name.startswith("SC_LEVEL") and "CACHE_SIZE" in name
    ]
    largest = max((os.sysconf(name) for name in names), default=0)
    return max(1 << 29, 4 * largest)


def measure(cold: ColdPool, keys: int, batch: int, threads: int, budget: float) -> DecodeRow:
    """Interleaved runs for about `budget` seconds, five at least; medians."""
    num_bytes = batch * keys * BYTES_PER_KEY
    times: dict[str, list[float]] = {"fused": [], "gather": [], "ceiling": []}
    cold.attend(batch, keys, "fused", threads)  # threads are started, buffers grown
    cold.attend(batch, keys, "gather", threads)
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times["fused"]) < 5:
        times["fused"].append(cold.attend(batch, keys, "fused", threads))
        times["ceiling"].append(cold.read_chunks(num_bytes, threads))
        times["gather"].append(cold.attend(batch, keys, "gather", threads))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return DecodeRow(keys, batch, threads, **medians)


def bench(*, quick: bool = False) -> list[DecodeRow]:
    """The cases of `quire bench`: decode over contexts, batches and threads.

    Args:
        quick: fewer and smaller cases, for a second or two.

    Example:
        >>> print(bench_table(bench(quick=True)))
    """
    most = int(_core.build_info()["num_threads"])
    cold = ColdPool()
    contexts, batches = ((512, 4096), (1,)) if quick else ((512, 4096, 16384), (1, 4))
    return [
        measure(cold, keys, batch, threads, 0.05 if quick else 0.5)
        for threads in sorted({1, most})
        for batch in batches
        for keys in contexts
    ]


def disturbed(rows: Sequence[DecodeRow]) -> str:
    """A warning where a case came out faster than memory, which only a busy machine can give."""
    most = max((row.of_ceiling for row in rows), default=0.0)
    if most <= 1.1:
        return ""
    return f"WARNING: {most:.0%} of memory: something else used the machine; run this again"


def bench_table(rows: Sequence[DecodeRow]) -> str:
    """The rows as text, with what the columns mean."""
    head = f"decode, ({NUM_HEADS}, {NUM_KV_HEADS}) heads, head size {HEAD_DIM}, {DTYPE}, "
    warning = disturbed(rows)
    return "\n".join(
        [
            head + f"cold blocks of {BLOCK_SIZE} tokens in random order",
            f"{'keys':>7} {'batch':>6} {'threads':>8} {'fused':>10} {'of memory':>10} "
            f"{'over gather':>12}",
            *(
                f"{row.keys:7d} {row.batch:6d} {row.threads:8d} {row.fused * 1e6:7.0f} us "
                f"{row.of_ceiling:10.0%} {row.over_gather:10.1f} x"
                for row in rows
            ),
            "of memory: speed as a part of that of reading as many bytes as randomly placed",
            f"  chunks of {CHUNK_BYTES} bytes. over gather: how many times as fast as gather.",
            *([warning] if warning else []),
        ]
    )
