"""Batches that share their beginning against as many sequences that share nothing, in one run.

    python benchmarks/shared_prefix.py [--quick]

64 sequences of 4352 tokens, 4096 of them in blocks that all tables have, take turns with 64 that
have blocks of their own. (32, 8) and (8, 8) heads, head size 128, blocks of 16 tokens in random
order that have left the caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bars import THREADS, Bar, ratios, run

from quire.bench_cases import AttentionCase, CacheShape
from quire.bench_report import CaseResult
from quire.benchmark import Bench

BATCH, SHARED, OWN = 64, 4096, 256
DTYPES = ("bfloat16", "float16", "float32")


def measure(bench: Bench, quick: bool) -> Iterator[list[CaseResult]]:
    """Pairs: shared, apart."""
    for dtype in DTYPES[:1] if quick else DTYPES:
        for num_heads in (32, 8):
            for threads in THREADS[-1:] if quick else THREADS:
                apart = AttentionCase(
                    (SHARED + OWN,) * (BATCH // 4 if quick else BATCH),
                    num_heads=num_heads,
                    shape=CacheShape(dtype=dtype),
                    threads=threads,
                )
                yield bench.measure(
                    replace(apart, shared=SHARED), apart, budget=0.05 if quick else 0.5
                )


def bars(results: list[CaseResult]) -> list[Bar]:
    """The least that sharing gains."""
    gain = {case: 1 / ratio for case, ratio in ratios(results).items()}
    return [Bar("speed over that of sequences apart", gain, least=4, unit="x")]


if __name__ == "__main__":
    raise SystemExit(run("Shared prefixes against none.", measure, bars))
