"""Decode of (32, 8) heads of 128 against memory, gather and NumPy, in one run.

    python benchmarks/decode.py [--quick]

Blocks lie in random order and have left the caches. First every context and batch in bfloat16,
beside gather; then other dtypes, blocks of 32 tokens, plain arrays, and AVX2 where there is more.
NumPy takes the blocks of one sequence, widens them and multiplies, on one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

# NumPy's threads wait for each other in a loop: where a core is busy with something else they take
# ten times as long, and measure that. One thread is compared with one. BLAS reads this when loaded.
os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
from bars import THREADS, Bar, available, of_ceiling, run

from quire.bench_cases import MEMORY, AttentionCase, CacheShape, Case, ColdCache, Timed
from quire.bench_report import CaseResult
from quire.benchmark import Bench

CONTEXTS, BATCHES = (512, 2048, 4096, 16384, 32768), (1, 4, 16)
QUICK_CONTEXTS, QUICK_BATCHES = (512, 4096), (1,)
LONG = (4096, 16384)  # where memory's share is asked for
SHAPES = [
    CacheShape(dtype=dtype, block_size=block_size, storage=storage)
    for dtype in ("bfloat16", "float16", "float32")
    for block_size in (16, 32)
    for storage in ("pool", "arrays")
]


def beside_numpy(case: Case, cache: ColdCache) -> dict[str, Timed]:
    """One sequence on one thread: take the blocks, widen them to float32, two matrix products.

    Heads come first and lie contiguous, so that the products go to BLAS.
    """
    if case.threads > 1 or not isinstance(case, AttentionCase) or len(case.lengths) > 1:
        return {}
    [keys], (size, _) = case.lengths, cache.shape.head_dims
    heads = cache.shape.num_kv_heads
    q = cache.random.standard_normal((heads, case.num_heads // heads, size), np.float32)

    def attend() -> float:
        [table] = cache.tables(case.lengths)
        begin = time.perf_counter()
        shape = (len(table) * cache.shape.block_size, heads, size)
        k, v = (
            x[table].reshape(shape).swapaxes(0, 1).astype(np.float32, order="C")[:, :keys]
            for x in (cache.k, cache.v)
        )
        scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(size))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        _ = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        return time.perf_counter() - begin

    return {"numpy": attend}


def measure(bench: Bench, quick: bool) -> Iterator[list[CaseResult]]:
    """The sweep beside gather, then the other shapes."""
    budget = 0.1 if quick else 0.5
    for keys in QUICK_CONTEXTS if quick else CONTEXTS:
        for batch in QUICK_BATCHES if quick else BATCHES:
            for threads in THREADS:
                case = AttentionCase((keys,) * batch, threads=threads, beside_gather=True)
                yield bench.measure(case, budget=budget, beside=beside_numpy)
    for shape in SHAPES[1:]:
        for keys in LONG[:1] if quick else LONG:
            for threads in THREADS:
                yield bench.measure(AttentionCase((keys,), 1, 32, shape, threads), budget=budget)
    if available("avx2"):
        for keys in LONG:
            case = AttentionCase((keys,), cpu="avx2")
            yield bench.measure(case, budget=budget)
            yield bench.measure(replace(case, threads=2), budget=budget)


def bars(results: list[CaseResult]) -> list[Bar]:
    """Memory's share of long contexts, and how many times as fast as gather."""
    long = [
        r
        for r in results
        if "batch" not in r.label and r.label.split(",")[0] in {f"decode {keys}" for keys in LONG}
    ]
    avx2 = [r for r in long if "avx2" in r.label and r.threads == 2]
    gather = {r.key: r.over("gather") for r in results if "gather" in r.others}
    short = ("decode 512", "decode 2048")
    from_4096 = {key: ratio for key, ratio in gather.items() if not key.startswith(short)}
    usual = [r for r in long if "avx2" not in r.label]
    return [
        *(
            of_ceiling(f"of {MEMORY}, {dtype}", [r for r in usual if dtype_of(r) == dtype], 0.9)
            for dtype in ("bfloat16", "float16", "float32")
        ),
        of_ceiling(f"of {MEMORY}, AVX2 on two threads", avx2, 0.75),
        Bar("times as fast as gather", gather, least=1.5, unit="x"),
        Bar("times as fast as gather from 4096 keys", from_4096, least=2.0, unit="x"),
    ]


def dtype_of(result: CaseResult) -> str:
    """Of the cache: bfloat16 where none is named."""
    names = [name for name in ("float16", "float32") if f", {name}" in result.label]
    return names[0] if names else "bfloat16"


if __name__ == "__main__":
    raise SystemExit(run("Decode against memory, gather and NumPy.", measure, bars))
