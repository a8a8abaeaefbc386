"""Quire measured against the roofs of the machine and against gather, in interleaved runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from quire import _core
from quire.bench_cases import (
    USUAL,
    AttentionCase,
    CacheShape,
    Case,
    ColdCache,
    Timed,
    WriteCase,
)
from quire.bench_report import BenchReport, CaseResult
from quire.machine_peaks import Machine, cold_bytes, environment

# Rounds of one measurement: five; three do once it has taken ten times its budget.
LEAST_ROUNDS, LEAST_SLOW_ROUNDS, SLOW = 5, 3, 10.0

# What else to time beside a case, by name.
Beside = Callable[[Case, ColdCache], Mapping[str, Timed]]
Progress = Callable[[int, int], None]


class Bench:
    """Measures cases. Keeps the cache of the last shape, so cases of one shape belong together.

    Example:
        >>> [result] = Bench().measure(AttentionCase(lengths=(4096,), threads=2))
        >>> print(f"{result.of_ceiling:.0%} of {result.bound}")
    """

    def __init__(self, num_bytes: int | None = None) -> None:
        """num_bytes: of the memory that all measuring wanders through; None: no cache holds it."""
        self._num_bytes = cold_bytes() if num_bytes is None else num_bytes
        self.machine = Machine(self._num_bytes)
        self._cache: ColdCache | None = None

    def measure(
        self, *cases: Case, budget: float = 0.5, beside: Beside | None = None
    ) -> list[CaseResult]:
        """Median times of cases, of their roofs and of what runs beside them, all taking turns.

        Args:
            cases: of one cache shape. What is to be compared is measured together.
            budget: seconds for each case, about; never fewer than three rounds.
            beside: what else to time with each case.

        Raises:
            ValueError: no case, or cases of several shapes.
        """
        if len({case.shape for case in cases}) != 1:
            raise ValueError("Bench.measure: cases: expected one shape, got none or several")
        cache = self._cache_of(cases[0].shape)
        racers = [_Racer(case, self.machine, cache, beside) for case in cases]
        begin = time.perf_counter()
        rounds = 0
        while not _enough(rounds, (time.perf_counter() - begin) / (budget * len(cases))):
            for racer in racers:
                racer.run()
            rounds += 1
        return [racer.result() for racer in racers]

    def _cache_of(self, shape: CacheShape) -> ColdCache:
        if self._cache is None or self._cache.shape != shape:
            self._cache = None  # its memory is free before the next is asked for
            self._cache = ColdCache(shape, self._num_bytes)
        return self._cache


def bench(*, quick: bool = False, progress: Progress | None = None) -> BenchReport:
    """The cases of `quire bench`, on one thread and on all.

    Args:
        quick: fewer and smaller cases, for some seconds.
        progress: called as progress(done, total) after each measurement.

    Example:
        >>> print(bench(quick=True))
    """
    info = _core.build_info()
    groups = list(suite(int(info["num_threads"]), quick=quick))
    meter = Bench()
    results: list[CaseResult] = []
    for done, cases in enumerate(groups, 1):
        results += meter.measure(*cases, budget=0.05 if quick else 0.3)
        if progress is not None:
            progress(done, len(groups))
    return BenchReport(str(info["version"]), str(info["instruction_set"]), results)


def suite(most_threads: int, *, quick: bool = False) -> Iterator[tuple[Case, ...]]:
    """The cases of `quire bench`; those of a tuple are measured together."""
    threads = sorted({1, most_threads})
    for cases in _one_threaded_suite(quick=quick):
        for count in threads:
            yield tuple(replace(case, threads=count) for case in cases)
    if not quick:
        yield (prefill(8192, threads=most_threads),)
        yield (prefill(8192, threads=most_threads, shape=CacheShape(dtype="float32")),)


def _one_threaded_suite(*, quick: bool) -> Iterator[tuple[Case, ...]]:
    usual = AttentionCase(lengths=(4096,))
    for keys in (512, 4096) if quick else (512, 4096, 16384):
        for batch in (1,) if quick else (1, 4, 16):
            yield (AttentionCase(lengths=(keys,) * batch, beside_gather=True),)
    for group in (1, 8, 16):
        yield (replace(usual, num_heads=8 * group),)
    yield tuple(replace(usual, query_tokens=tokens) for tokens in (4, 8))
    lengths = ragged_lengths(16, 4096 if quick else 16384)
    yield replace(usual, lengths=lengths), replace(usual, lengths=equal_lengths(lengths))
    for keys in (512,) if quick else (512, 2048):
        yield (prefill(keys),)
    yield (prefill(2048 + 512 if quick else 8192 + 512, 512),)
    yield WriteCase("write_kv"), WriteCase("append")
    for head_dim in (64, 256):
        yield (replace(usual, shape=CacheShape(head_dims=(head_dim, head_dim))),)
    yield (replace(usual, shape=CacheShape(num_kv_heads=1)),)
    yield (replace(usual, num_heads=128, shape=MLA),)
    for keys in (512,) if quick else (512, 2048):
        yield (prefill(keys, shape=CacheShape(dtype="float32")),)


# Multi-head latent attention, as its kernels see it: one latent for key and value.
MLA = CacheShape(num_kv_heads=1, head_dims=(576, 512), shared_values=True)


def prefill(
    keys: int,
    new: int | None = None,
    *,
    shape: CacheShape = USUAL,
    threads: int = 1,
    cpu: str = "",
) -> AttentionCase:
    """A prompt of one sequence: its last `new` tokens, or all."""
    return AttentionCase((keys,), keys if new is None else new, 32, shape, threads, cpu)


def ragged_lengths(batch: int, longest: int) -> tuple[int, ...]:
    """Lengths from 1 to `longest`, the same every time, as many below any x as above longest / x.

    In no order; the longest is among them, and the shortest where there are two.
    """
    random = np.random.default_rng(batch)
    lengths = np.exp(random.uniform(0, np.log(longest), batch)).astype(int)
    lengths[0] = longest
    if batch > 1:
        lengths[1] = 1
    return tuple(int(length) for length in random.permutation(lengths))


def equal_lengths(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """As many keys in as many sequences, which differ by one at most."""
    each, left = divmod(sum(lengths), len(lengths))
    return tuple(each + (i < left) for i in range(len(lengths)))


class _Racer:
    """One case with all that takes turns with it, and the times of each."""

    def __init__(
        self, case: Case, machine: Machine, cache: ColdCache, beside: Beside | None
    ) -> None:
        self._case = case
        with self._environment():
            found = case.contestants(machine, cache)
        others = {**found.others, **(beside(case, cache) if beside else {})}
        self._runs = {"quire": {"": found.quire}, "roof": found.roofs, "other": others}
        self._times: dict[tuple[str, str], list[float]] = {}
        with self._environment():
            found.quire()  # threads are started, buffers grown

    def run(self) -> None:
        """Each once."""
        with self._environment():
            for kind, runs in self._runs.items():
                for name, run in runs.items():
                    self._times.setdefault((kind, name), []).append(run())

    def result(self) -> CaseResult:
        """Medians so far."""
        medians = {
            kind: {name: float(np.median(self._times[kind, name])) for name in runs}
            for kind, runs in self._runs.items()
        }
        case = self._case
        return CaseResult(
            case.label,
            case.threads,
            case.num_bytes,
            case.flops,
            medians["quire"][""],
            medians["roof"],
            medians["other"],
        )

    def _environment(self) -> AbstractContextManager[None]:
        return environment(QUIRE_CPU=self._case.cpu, QUIRE_NUM_THREADS=str(self._case.threads))


def _enough(rounds: int, budgets: float) -> bool:
    """Whether to stop after so many rounds, and so many times the budget."""
    if budgets >= SLOW:
        return rounds >= LEAST_SLOW_ROUNDS
    return budgets >= 1 and rounds >= LEAST_ROUNDS
