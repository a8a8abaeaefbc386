"""What a call costs when there is next to nothing to compute, against its budget.

python benchmarks/overhead.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import quire


def best_microseconds(call: Callable[[], object], repeats: int = 7, calls: int = 2000) -> float:
    """The fastest of several averages: what the call costs when nothing disturbs it."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - begin) / calls)
    return min(times) * 1e6


def small_attention() -> float:
    """paged_attention of one sequence of 16 tokens, 8 heads, head size 64."""
    random = np.random.default_rng(0)
    k, v = random.standard_normal((2, 4, 16, 8, 64), np.float32)
    q = random.standard_normal((1, 8, 64), np.float32)
    tables, lengths = np.array([[2]], np.int32), np.array([16], np.int32)
    return best_microseconds(lambda: quire.paged_attention(q, k, v, tables, lengths))


def fork_of_long_table() -> float:
    """fork of 32,768 tokens, the fork freed each time outside the clock."""
    pool = quire.BlockPool(2048, num_kv_heads=1, head_dim=8)
    table = quire.BlockTable(pool)
    table.extend(32768)
    times = []
    for _ in range(300):
        begin = time.perf_counter()
        child = table.fork()
        times.append(time.perf_counter() - begin)
        child.free()
    return float(np.median(times)) * 1e6


def append_of_one_token() -> float:
    """append of one token, 8 heads, head size 64."""
    pool = quire.BlockPool(4096, num_kv_heads=8, head_dim=64, dtype="float32")
    table = quire.BlockTable(pool)
    k = np.ones((1, 8, 64), np.float32)

    def append() -> None:
        table.append(k, k)
        if len(table) == 4096:
            table.truncate(0)

    return best_microseconds(append)


def main() -> None:
    """Print each figure, its budget and their ratio."""
    print(f"{'':34} {'measured':>10} {'budget':>8} {'of it':>6}")
    for name, measured, budget in (
        ("paged_attention, 16 tokens", small_attention(), 10.0),
        ("fork of 32,768 tokens", fork_of_long_table(), 20.0),
        ("append of one token", append_of_one_token(), 3.0),
    ):
        print(f"{name:34} {measured:7.2f} us {budget:5.0f} us {measured / budget:6.0%}")


if __name__ == "__main__":
    main()
