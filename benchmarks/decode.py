"""Fused decode against memory, against gather, and against plain NumPy, in one run.

    python benchmarks/decode.py [--quick]

(32, 8) heads, head size 128, bfloat16, blocks of 16 tokens in random order that have left the
caches. "of memory": speed as a part of that of reading the same bytes as randomly placed chunks of
8 KiB, which is one head's keys and values of a block. "over gather": how many times as fast.
"over numpy": likewise, both on one thread. The exit status is 1 where a budget at the end is
missed, or where the machine was too busy to tell.
"""

from __future__ import annotations

import argparse
import os
import time

# NumPy's threads wait for each other in a loop: where a core is busy with something else they take
# ten times as long, and measure that. One thread is compared with one. BLAS reads this when loaded.
os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np

from quire.benchmark import (
    BLOCK_SIZE,
    HEAD_DIM,
    NUM_KV_HEADS,
    ColdPool,
    DecodeRow,
    disturbed,
    measure,
)

CONTEXTS, BATCHES, THREADS = (512, 1024, 2048, 4096, 8192, 16384, 32768), (1, 4, 8, 16), (1, 2)
QUICK_CONTEXTS, QUICK_BATCHES = (512, 4096), (1,)
OF_MEMORY_KEYS, OF_MEMORY_BUDGET, OVER_GATHER_BUDGET = 4096, 0.6, 1.0


def numpy_seconds(cold: ColdPool, keys: int) -> float:
    """One sequence without Quire: take the blocks, widen them to float32, two matrix products.

    Heads come first and lie contiguous, so that the products go to BLAS. NumPy has no arithmetic
    in bfloat16 and no ragged batch: a batch costs as many times as much as it has sequences.
    """
    q = cold.queries(1)[0].astype(np.float32).reshape(NUM_KV_HEADS, -1, HEAD_DIM)
    table = cold.tables(1, keys)[0]
    begin = time.perf_counter()
    shape = (len(table) * BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM)
    k, v = (
        cache[table].reshape(shape).swapaxes(0, 1).astype(np.float32, order="C")[:, :keys]
        for cache in (cold.pool.k_cache(), cold.pool.v_cache())
    )
    scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(HEAD_DIM))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    _ = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    return time.perf_counter() - begin


def line(row: DecodeRow, numpy_of_one: float) -> str:
    """One case of the table."""
    text = (
        f"{row.keys:6d} {row.batch:5d} {row.threads:7d} {row.fused * 1e6:8.0f} us "
        f"{row.of_ceiling:9.0%} {row.over_gather:10.1f} x"
    )
    return text + (f" {row.batch * numpy_of_one / row.fused:9.0f} x" if row.threads == 1 else "")


def budgets_met(rows: list[DecodeRow]) -> bool:
    """Print the worst case of each budget."""
    of_memory = min(
        (row for row in rows if row.keys == OF_MEMORY_KEYS and row.batch == 1),
        key=lambda row: row.of_ceiling,
    )
    over_gather = min(rows, key=lambda row: row.over_gather)
    print(
        f"least of memory at {OF_MEMORY_KEYS} keys: {of_memory.of_ceiling:.0%} "
        f"({of_memory.threads} threads), budget {OF_MEMORY_BUDGET:.0%}"
    )
    print(
        f"least over gather: {over_gather.over_gather:.2f} x ({over_gather.keys} keys, batch "
        f"{over_gather.batch}, {over_gather.threads} threads), budget {OVER_GATHER_BUDGET:g} x"
    )
    if warning := disturbed(rows):
        print(warning)
        return False
    return of_memory.of_ceiling >= OF_MEMORY_BUDGET and over_gather.over_gather > OVER_GATHER_BUDGET


def main() -> int:
    """Print a line for each case, then the budgets."""
    parser = argparse.ArgumentParser(description="Fused decode against memory, gather and NumPy.")
    parser.add_argument("--quick", action="store_true", help="two contexts, batch 1")
    quick = parser.parse_args().quick
    cold = ColdPool()
    rows = []
    print("  keys batch threads       fused  of memory  over gather  over numpy")
    for keys in QUICK_CONTEXTS if quick else CONTEXTS:
        numpy_seconds(cold, keys)  # memory for this size is mapped
        numpy_of_one = float(np.median([numpy_seconds(cold, keys) for _ in range(3)]))
        for batch in QUICK_BATCHES if quick else BATCHES:
            for threads in THREADS:
                rows.append(measure(cold, keys, batch, threads, 0.1 if quick else 0.5))
                print(line(rows[-1], numpy_of_one), flush=True)
    return 0 if budgets_met(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
