"""What the machine can do, measured beside the kernels: the roofs that they are held to."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quire import _core

Arithmetic = Literal["float32", "bfloat16"]

# What one look at memcpy copies at least: long against the starting of a thread.
LEAST_COPIED = 32 << 20


class Deck:
    """Deals a permutation round and round: what was dealt longest ago comes next.

    One deal of more than there is comes round to its own beginning, which has gone cold by then.
    """

    def __init__(self, order: npt.NDArray[Any]) -> None:
        self._order = order
        self._next = 0

    def deal(self, count: int) -> npt.NDArray[Any]:
        """The next `count` entries."""
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


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables of this process for a while; an empty one is left as it is."""
    wanted = {name: value for name, value in variables.items() if value}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    _core.read_environment_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _core.read_environment_again()


def arithmetic_of(dtype: str) -> Arithmetic:
    """What the kernels in use compute in where queries, keys and values are of `dtype`."""
    multiplied: Arithmetic = "bfloat16" if dtype == "bfloat16" else "float32"
    instruction_set = str(_core.build_info()["instruction_set"])
    return multiplied if _has_arithmetic(instruction_set, multiplied) else "float32"


@lru_cache
def _has_arithmetic(instruction_set: str, kind: Arithmetic) -> bool:
    with environment(QUIRE_CPU=instruction_set):
        try:
            _core.arithmetic_peak(kind, 1)
        except ValueError:
            return False
    return True


class Machine:
    """Memory larger than the caches, and the seconds that reading, copying and computing take."""

    def __init__(self, num_bytes: int) -> None:
        self._random = np.random.default_rng(0)
        # one byte everywhere, which makes a harmless number of every float type
        self._memory = np.full(num_bytes, 0x3F, np.uint8)
        self._chunks: dict[int, Deck] = {}
        self._next = 0

    def read(self, num_bytes: int, chunk_bytes: int, threads: int) -> float:
        """Seconds to read as many bytes as chunks of `chunk_bytes` in random order."""
        chunk = -(-chunk_bytes // 64) * 64
        if chunk not in self._chunks:
            order = self._random.permutation(max(1, len(self._memory) // chunk))
            self._chunks[chunk] = Deck(order)
        order = self._chunks[chunk].deal(-(-num_bytes // chunk))
        seconds = _core.read_chunks(self._memory, chunk, order, threads)
        return seconds * num_bytes / (len(order) * chunk)

    def copy(self, num_bytes: int, threads: int) -> float:
        """Seconds that memcpy takes for as many bytes, cold, on threads that share them."""
        part = max(1, min(num_bytes, len(self._memory) // 2) // threads)
        rounds = -(-LEAST_COPIED // (part * threads))
        others = [
            threading.Thread(target=self._copy_parts, args=(self._pairs(part, rounds),))
            for _ in range(threads - 1)
        ]
        mine = self._pairs(part, rounds)
        begin = time.perf_counter()
        for other in others:
            other.start()
        self._copy_parts(mine)
        for other in others:
            other.join()
        seconds = time.perf_counter() - begin
        return seconds * num_bytes / (part * threads * rounds)

    def compute(self, flops: float, kind: Arithmetic, threads: int) -> float:
        """Seconds that as many FLOPs take at the peak of multiply-adds."""
        return flops / _core.arithmetic_peak(kind, threads)

    def cold_piece(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """The `num_bytes` of memory that have not been dealt for longest; their values are fine."""
        if self._next + num_bytes > len(self._memory):
            self._next = 0
        piece = self._memory[self._next : self._next + num_bytes]
        self._next += num_bytes
        return piece

    def _pairs(self, part: int, rounds: int) -> list[tuple[Any, Any]]:
        return [(self.cold_piece(part), self.cold_piece(part)) for _ in range(rounds)]

    @staticmethod
    def _copy_parts(pairs: list[tuple[Any, Any]]) -> None:
        for target, source in pairs:
            np.copyto(target, source)
