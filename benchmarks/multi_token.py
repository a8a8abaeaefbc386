"""Several query tokens a sequence, as when drafts are verified, against one, in one run.

    python benchmarks/multi_token.py [--quick]

1, 4 and 8 query tokens at 4096 keys take turns. (32, 8) heads, head size 128, bfloat16, blocks of
16 tokens in random order that have left the caches.
"""

from __future__ import annotations

from collections.abc import Iterator

from bars import THREADS, Bar, run

from quire.bench_cases import AttentionCase
from quire.bench_report import CaseResult
from quire.benchmark import Bench

KEYS, BATCHES = 4096, (1, 4, 16)
MOST = {4: 1.4, 8: 2.0}  # times as long as one query token


def measure(bench: Bench, quick: bool) -> Iterator[list[CaseResult]]:
    """One, four and eight query tokens together."""
    for batch in BATCHES[:1] if quick else BATCHES:
        for threads in THREADS:
            cases = [
                AttentionCase((KEYS,) * batch, tokens, threads=threads) for tokens in (1, *MOST)
            ]
            yield bench.measure(*cases, budget=0.1 if quick else 0.5)


def bars(results: list[CaseResult]) -> list[Bar]:
    """Each number of query tokens against one."""
    alone = results[:: 1 + len(MOST)]
    return [
        Bar(
            f"{tokens} query tokens, time over that of one",
            {
                several.key: several.seconds / one.seconds
                for several, one in zip(results[place :: 1 + len(MOST)], alone, strict=True)
            },
            most=most,
            unit="x",
        )
        for place, (tokens, most) in enumerate(MOST.items(), 1)
    ]


if __name__ == "__main__":
    raise SystemExit(run("Several query tokens a sequence against one.", measure, bars))
