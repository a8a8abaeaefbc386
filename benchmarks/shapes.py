"""Decode of other head counts and head sizes against the roofs, in one run.

    python benchmarks/shapes.py [--quick]

Groups of 1, 4, 8 and 16 query heads to each of 8 KV heads, one KV head with 32, head sizes 64, 128
and 256, and the shape of multi-head latent attention. Bfloat16, blocks of 16 tokens in random order
that have left the caches.
"""

from __future__ import annotations

from collections.abc import Iterator

from bars import THREADS, Bar, of_ceiling, run

from quire.bench_cases import AttentionCase, CacheShape
from quire.bench_report import CaseResult
from quire.benchmark import MLA, Bench

HEADS = [(8, 8), (32, 8), (64, 8), (128, 8), (32, 1)]
HEAD_DIMS = (64, 128, 256)
CONTEXTS = (4096, 16384)


def measure(bench: Bench, quick: bool) -> Iterator[list[CaseResult]]:
    """Every shape on one thread and two."""
    shapes = [
        (num_heads, CacheShape(num_kv_heads=num_kv_heads, head_dims=(size, size)))
        for size in HEAD_DIMS
        for num_heads, num_kv_heads in HEADS
    ]
    for num_heads, shape in [*shapes, (128, MLA)]:
        for keys in CONTEXTS[:1] if quick else CONTEXTS:
            for threads in THREADS:
                case = AttentionCase((keys,), 1, num_heads, shape, threads)
                yield bench.measure(case, budget=0.05 if quick else 0.3)


def bars(results: list[CaseResult]) -> list[Bar]:
    """By roof, and no cliff between shapes."""
    memory = [result for result in results if result.bound_by_memory]
    arithmetic = [result for result in results if not result.bound_by_memory]
    times_its_roof = {f"{r.key}, {r.bound}": 1 / r.of_ceiling for r in results}
    return [
        of_ceiling("where memory bounds", memory, 0.8),
        of_ceiling("where arithmetic bounds", arithmetic, 0.6),
        Bar("time over that of the lowest roof", times_its_roof, most=1.5, unit="x"),
    ]


if __name__ == "__main__":
    raise SystemExit(run("Decode of other shapes against the roofs.", measure, bars))
