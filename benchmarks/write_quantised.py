"""Writing prompts into quantised pools, in one run: times as long as memcpy, and what sealing adds.

    python benchmarks/write_quantised.py [--quick]

BlockTable.append of 4096 tokens, 8 KV heads of 128, from bfloat16 and from float32; memcpy copies,
on as many threads, half of the bytes that are read and written. Numbers are read twice: what a
cache cannot hold is refused before anything changes. `sealing` is what extend does for as many
tokens that were written open. Sources and blocks are used in turns, so that both are cold; each is
the fastest of interleaved calls.
"""

from __future__ import annotations

import argparse
import time

import ml_dtypes
import numpy as np

import quire
from quire.machine_peaks import Machine, environment

CACHES = (("bfloat16", 0), ("int8", 0), ("int8", 2), ("float8_e4m3fn", 0), ("int4", 2))
SOURCES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
TOKENS, HEADS, HEAD_DIM = 4096, 8, 128
COLD_BYTES = 1 << 28


class Prompts:
    """A pool for some prompts, of which the next is appended into blocks that are cold."""

    def __init__(self, dtype: str, open_blocks: int) -> None:
        self.dtype, self.open_blocks = dtype, open_blocks
        probe = self._pool(1)
        self.bytes_per_block = probe.nbytes
        self._count = max(2, COLD_BYTES // (TOKENS // 16 * self.bytes_per_block))
        self._pool_of_all = self._pool((self._count + 1) * (TOKENS // 16 + 1))
        self._tables: list[quire.BlockTable] = []

    def _pool(self, num_blocks: int) -> quire.BlockPool:
        return quire.BlockPool(
            num_blocks,
            num_kv_heads=HEADS,
            head_dim=HEAD_DIM,
            dtype=self.dtype,
            open_blocks=self.open_blocks or None,
        )

    def _new_table(self) -> quire.BlockTable:
        if len(self._tables) == self._count:
            self._tables.pop(0).free()
        self._tables.append(quire.BlockTable(self._pool_of_all))
        return self._tables[-1]

    def append(self, source: np.ndarray) -> float:
        """Seconds of one call."""
        table = self._new_table()
        begin = time.perf_counter()
        table.append(source[0], source[1])
        return time.perf_counter() - begin

    def seal(self) -> float:
        """Seconds of sealing a prompt whose rows are open: zeros, as no row is written."""
        table = self._new_table()
        table.extend(TOKENS)
        begin = time.perf_counter()
        table.extend(1)
        seconds = time.perf_counter() - begin
        table.free()
        self._tables.pop()
        return seconds

    def copied_bytes(self, source: np.ndarray) -> int:
        """What memcpy calls its bytes: half of what is read, once, and written."""
        return (int(source.nbytes) + TOKENS // 16 * self.bytes_per_block) // 2


def measure(threads: int, rounds: int) -> None:
    """Prints a row for each cache."""
    random = np.random.default_rng(0)
    numbers = random.standard_normal((4, 2, TOKENS, HEADS, HEAD_DIM), np.float32)
    sources = {name: numbers.astype(dtype) for name, dtype in SOURCES.items()}
    machine = Machine(COLD_BYTES)
    pools = [Prompts(dtype, open_blocks) for dtype, open_blocks in CACHES]
    best: dict[tuple[object, ...], float] = {}

    def note(key: tuple[object, ...], seconds: float) -> None:
        best[key] = min(best.get(key, seconds), seconds)

    for turn in range(rounds):
        for i, pool in enumerate(pools):
            for name, source in sources.items():
                note((i, name), pool.append(source[turn % len(source)]))
                copied = pool.copied_bytes(source[0])
                note((i, name, "memcpy"), machine.copy(copied, threads))
            if pool.open_blocks:
                note((i, "sealing"), pool.seal())
    for i, pool in enumerate(pools):
        cells = [f"{best[i, name] / best[i, name, 'memcpy']:.2f}x" for name in SOURCES]
        sealing = best.get((i, "sealing"))
        cells.append(f"{sealing / best[i, 'bfloat16', 'memcpy']:.2f}x" if sealing else "")
        print(f"| {pool.dtype} | {pool.open_blocks} | {threads} | " + " | ".join(cells) + " |")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Writing prompts into quantised pools.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for some seconds")
    rounds = 4 if parser.parse_args().quick else 40
    print(f"quire {quire.__version__}; times as long as memcpy")
    print("| cache | open | threads | from bfloat16 | from float32 | sealing |")
    print("|---|---|---|---|---|---|")
    for threads in (1, 2):
        with environment(QUIRE_NUM_THREADS=str(threads)):
            measure(threads, rounds)


if __name__ == "__main__":
    main()
