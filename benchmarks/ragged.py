"""Batches of ragged lengths against equal lengths of as many keys, in one run.

    python benchmarks/ragged.py [--quick]

Two kinds of raggedness: lengths spread evenly over the powers of two up to 16384, and one sequence
of 16384 among others of one key. Each batch takes turns with one of equal lengths and as many keys.
(32, 8) heads, head size 128, bfloat16, blocks of 16 tokens in random order that have left the
caches.
"""

from __future__ import annotations

from collections.abc import Iterator

from bars import THREADS, Bar, ratios, run

from quire.bench_cases import AttentionCase
from quire.bench_report import CaseResult
from quire.benchmark import Bench, equal_lengths, ragged_lengths

BATCHES, LONGEST = (1, 4, 16, 64), 16384


def measure(bench: Bench, quick: bool) -> Iterator[list[CaseResult]]:
    """Pairs: ragged, equal."""
    longest = 4096 if quick else LONGEST
    for batch in BATCHES[:3] if quick else BATCHES:
        one_long = (1,) * (batch // 2) + (longest,) + (1,) * (batch - batch // 2 - 1)
        for lengths in dict.fromkeys((ragged_lengths(batch, longest), one_long)):
            for threads in THREADS:
                ragged = AttentionCase(lengths, threads=threads)
                equal = AttentionCase(equal_lengths(lengths), threads=threads)
                yield bench.measure(ragged, equal, budget=0.05 if quick else 0.5)


def bars(results: list[CaseResult]) -> list[Bar]:
    """The slowest pair."""
    return [Bar("time over that of equal lengths", ratios(results), most=1.15, unit="x")]


if __name__ == "__main__":
    raise SystemExit(run("Ragged batches against equal ones.", measure, bars))
