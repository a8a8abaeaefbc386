"""Attention in tiles beside AVX-512, on a machine with AMX, in one run.

    python benchmarks/tiles.py [--quick]

Both take turns: one query token of 1, 2, 4 and 8 heads for each of 8 KV heads, some tokens that are
verified, and prompts. Head size 128, bfloat16, blocks of 16 tokens in random order that have left
the caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bars import THREADS, Bar, available, ratios, run

from quire.bench_cases import AttentionCase
from quire.bench_report import CaseResult
from quire.benchmark import Bench

KV_HEADS, GROUPS = 8, (1, 2, 4, 8)
KEYS, QUICK_KEYS = (512, 4096, 16384), (4096,)
VERIFIED = (4, 8)
PROMPTS, QUICK_PROMPTS = (512, 2048), (512,)


def cases_of(quick: bool) -> Iterator[AttentionCase]:
    """Each to be computed in both ways."""
    for keys in QUICK_KEYS if quick else KEYS:
        for group in GROUPS:
            yield AttentionCase((keys,), num_heads=KV_HEADS * group)
    for tokens in VERIFIED:
        yield AttentionCase((KEYS[1],), tokens)
    for tokens in QUICK_PROMPTS if quick else PROMPTS:
        yield AttentionCase((tokens,), tokens)


def measure(bench: Bench, quick: bool) -> Iterator[list[CaseResult]]:
    """In tiles and by AVX-512, by turns."""
    if not available("amx"):
        raise SystemExit("this machine has no AMX, as `quire info` says")
    for case in cases_of(quick):
        for threads in THREADS[:1] if quick else THREADS:
            both = [replace(case, cpu=cpu, threads=threads) for cpu in ("amx", "avx512")]
            yield bench.measure(*both, budget=0.2 if quick else 0.5)


def bars(results: list[CaseResult]) -> list[Bar]:
    """The time in tiles over that of AVX-512."""
    over = ratios(results)

    def of(name: str, wanted: str) -> Bar:
        return Bar(
            name, {key: r for key, r in over.items() if key.startswith(wanted)}, most=1.0, unit="x"
        )

    return [
        of(f"{what}, time over that of AVX-512", what) for what in ("decode", "verify", "prefill")
    ]


if __name__ == "__main__":
    raise SystemExit(run("Attention in tiles beside AVX-512.", measure, bars))
