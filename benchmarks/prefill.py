"""Prefill against the arithmetic peak, in one run.

    python benchmarks/prefill.py [--quick]

Causal, one sequence, (32, 8) heads of 128, warm or cold alike. FLOPs are those of visible pairs of
a query and a key alone. Chunked: 512 new tokens on 8192 cached, against the same pairs of a
prefill of all 8704 tokens. AVX2 is held to AVX2's own peak.
"""

from __future__ import annotations

from collections.abc import Iterator

from bars import THREADS, Bar, available, of_ceiling, run

from quire.bench_cases import AttentionCase, CacheShape
from quire.bench_report import CaseResult
from quire.benchmark import Bench, prefill

CACHED, NEW = 8192, 512
LEAST = {512: 0.55, 2048: 0.7, 8192: 0.75}
FLOAT32, LEAST_FLOAT32, LEAST_AVX2 = CacheShape(dtype="float32"), 0.65, 0.6


def measure(bench: Bench, quick: bool) -> Iterator[list[CaseResult]]:
    """Bfloat16 of every length, chunked against whole, float32, AVX2."""
    budget = 0.2 if quick else 1.0
    for tokens in list(LEAST)[: 1 if quick else None]:
        for threads in THREADS:
            yield bench.measure(prefill(tokens, threads=threads), budget=budget)
    chunk, whole = (256, 1024) if quick else (NEW, CACHED + NEW)
    for threads in THREADS:
        yield bench.measure(prefill(whole, chunk, threads=threads), budget=budget)
        yield bench.measure(prefill(whole, threads=threads), budget=budget)
    tokens = 512 if quick else 2048
    for threads in THREADS:
        yield bench.measure(prefill(tokens, shape=FLOAT32, threads=threads), budget=budget)
    if available("avx2"):
        for threads in THREADS:
            yield bench.measure(prefill(tokens, threads=threads, cpu="avx2"), budget=budget)


def rate(result: CaseResult) -> float:
    """FLOP/s."""
    return result.flops / result.seconds


def bars(results: list[CaseResult]) -> list[Bar]:
    """A bar for each length, and for what is special."""
    by_label: dict[str, list[CaseResult]] = {}
    for result in results:
        by_label.setdefault(result.label, []).append(result)

    def named(case: AttentionCase) -> list[CaseResult]:
        return by_label.get(case.label, [])

    chunked = [result for result in results if " of " in result.label]
    slower = {
        result.key: rate(whole) / rate(result)
        for result in chunked
        for whole in results
        if whole.label == f"prefill {result.label.split(' of ')[1]}"
        and whole.threads == result.threads
    }
    return [
        *(of_ceiling(f"prefill {n}", named(prefill(n)), least) for n, least in LEAST.items()),
        Bar("chunked, time over that of as much work unchunked", slower, most=1.1, unit="x"),
        of_ceiling("float32", named(prefill(2048, shape=FLOAT32)), LEAST_FLOAT32),
        of_ceiling("AVX2", named(prefill(2048, cpu="avx2")), LEAST_AVX2),
    ]


if __name__ == "__main__":
    raise SystemExit(run("Prefill against the arithmetic peak.", measure, bars))
