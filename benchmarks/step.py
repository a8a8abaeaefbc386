"""What a Step saves: one decode step through all layers, planned once or anew in each layer.

    python benchmarks/step.py

Both sides write the same rows and attend over the same tables, a token for each sequence, and give
the same bits. By hand, each layer calls write_kv and attend, which pack, check and plan again.
Times are medians of interleaved steps, in microseconds a layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import quire

Array = npt.NDArray[Any]
LAYERS, KEYS, BLOCK_SIZE, STEPS = 32, 512, 16, 15
# sequences, query heads, KV heads, head size: of the last, nearly nothing but the work around it
CASES = [(256, 4, 1, 64), (64, 32, 8, 64), (8, 32, 8, 128), (256, 1, 1, 8)]


def medians(*sides: Callable[[], object]) -> list[float]:
    """Of each side's times, the sides taking turns; the first turn warms up."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(STEPS + 1):
        for side, taken in zip(sides, times, strict=True):
            begin = time.perf_counter()
            side()
            if turn > 0:
                taken.append(time.perf_counter() - begin)
    return [float(np.median(taken)) * 1e6 / LAYERS for taken in times]


def compare(num_seqs: int, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """Print one case."""
    blocks = num_seqs * (KEYS // BLOCK_SIZE + 2)
    pool = quire.BlockPool(
        blocks,
        block_size=BLOCK_SIZE,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_layers=LAYERS,
    )
    random = np.random.default_rng(0)
    tables = [quire.BlockTable(pool) for _ in range(num_seqs)]
    prompt = random.standard_normal((2, LAYERS, KEYS - 1, num_kv_heads, head_dim), np.float32)
    for table in tables:
        table.append(*prompt)
    k, v = random.standard_normal((2, num_seqs, num_kv_heads, head_dim), np.float32)
    q = random.standard_normal((num_seqs, num_heads, head_dim), np.float32)
    caches = [(pool.k_cache(layer), pool.v_cache(layer)) for layer in range(LAYERS)]
    results: dict[str, Array] = {}

    def by_step() -> None:
        step = quire.Step(tables, 1)
        for layer in range(LAYERS):
            results["step"] = step.attend(q, k, v, layer=layer)
        step.take_back()

    def by_hand() -> None:
        slots = np.concatenate([table.extend(1) for table in tables])
        for layer, cache in enumerate(caches):
            quire.write_kv(k, v, *cache, slots)
            results["hand"] = quire.attend(q, tables, layer=layer)
        for table in tables:
            table.truncate(KEYS - 1)

    step, hand = medians(by_step, by_hand)
    assert (results["step"] == results["hand"]).all()
    print(
        f"{num_seqs:4} x {KEYS} keys x {LAYERS} layers, heads {num_heads}:{num_kv_heads}, size "
        f"{head_dim:3}: step {step:7.0f} us, by hand {hand:7.0f} us a layer, {hand / step:.2f}x"
    )


def main() -> None:
    """All cases, on the threads that attention takes by default."""
    for case in CASES:
        compare(*case)


if __name__ == "__main__":
    main()
