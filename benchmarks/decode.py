"""Fused decode against memory, against gather, and against plain NumPy, in one run.

    python benchmarks/decode.py [--quick]

(32, 8) heads, head size 128, bfloat16, blocks of 16 tokens in random order, cold.
"of memory" compares with the same bytes read as randomly placed chunks of 8 KiB beside it.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from quire.benchmark import ColdPool, measure


def numpy_seconds(cold: ColdPool, keys: int) -> float:
    """What one writes without Quire: take the blocks, widen, two products and a softmax."""
    q = cold.queries(1)
    tables, _ = cold.tables(1, keys)
    begin = time.perf_counter()
    k = cold.pool.k_cache()[tables[0]].reshape(keys, -1, cold.head_dim).astype(np.float32)
    v = cold.pool.v_cache()[tables[0]].reshape(keys, -1, cold.head_dim).astype(np.float32)
    grouped: Any = q[0].astype(np.float32).reshape(k.shape[1], -1, cold.head_dim)
    scores = grouped @ k.transpose(1, 2, 0) / np.sqrt(cold.head_dim)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    _ = (weights / weights.sum(axis=-1, keepdims=True)) @ v.transpose(1, 0, 2)
    return time.perf_counter() - begin


def main() -> None:
    """Print a line for each case."""
    quick = "--quick" in sys.argv
    cold = ColdPool()
    print("  keys batch threads       fused  of memory  gather/fused  numpy/fused")
    for threads in (1, 2):
        for keys in (512, 4096) if quick else (512, 1024, 2048, 4096, 8192, 16384, 32768):
            for batch in (1,) if quick else (1, 4, 8, 16):
                row = measure(cold, keys, batch, threads, 0.1 if quick else 0.6)
                line = (
                    f"{keys:6d} {batch:5d} {threads:7d} {row.fused * 1e6:8.0f} us "
                    f"{row.of_ceiling:9.0%} {row.gather / row.fused:12.1f}x"
                )
                if batch == 1:
                    line += f" {numpy_seconds(cold, keys) / row.fused:11.1f}x"
                print(line, flush=True)


if __name__ == "__main__":
    main()
