"""Writing a prefill into the cache against memcpy, in one run.

    python benchmarks/write.py [--quick]

write_kv and BlockTable.append of 8 KV heads of 128 into bfloat16 blocks of 16 tokens in random
order, from bfloat16 and from float32; what is read and what is written has left the caches. memcpy
copies, on as many threads, half of the bytes that are read and written. Fresh stores may outrun it.
"""

from __future__ import annotations

from collections.abc import Iterator

from bars import THREADS, Bar, of_ceiling, run

from quire.bench_cases import USUAL, CacheShape, WriteCase
from quire.bench_report import CaseResult
from quire.benchmark import Bench

TOKENS = (512, 2048, 8192)


def measure(bench: Bench, quick: bool) -> Iterator[list[CaseResult]]:
    """Pool and plain arrays; tables are of a pool."""
    for shape in (USUAL, CacheShape(storage="arrays")):
        for operation in ("write_kv", "append"):
            if operation == "append" and shape.storage != "pool":
                continue
            for source in ("bfloat16", "float32"):
                for tokens in (2048,) if quick else TOKENS:
                    for threads in THREADS:
                        case = WriteCase(operation, tokens, source, shape, threads)
                        yield bench.measure(case, budget=0.05 if quick else 0.3)


def bars(results: list[CaseResult]) -> list[Bar]:
    """Of memcpy."""
    return [of_ceiling("of the speed of memcpy", results, 0.7)]


if __name__ == "__main__":
    raise SystemExit(run("Writing against memcpy.", measure, bars))
