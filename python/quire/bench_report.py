"""What was measured, as numbers, as a table, as a picture, and against an earlier time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from quire.bench_cases import MEMCPY, MEMORY
from quire.counted import counted

FORMAT = "quire bench 1"

# Faster than a roof by this much: the roof was measured while something else used the machine.
MOST_OF_CEILING = 1.1

TABLE_HEAD = (
    f"{'case':46} {'threads':>7} {'time':>10} {'speed':>14}  {'of ceiling':18}  times as fast as"
)
TABLE_FOOT = """\
of ceiling: the speed as a part of what the lowest roof above the case allows. memory: its keys and
  values read as randomly placed chunks; float32 FMA, bfloat16 dot: its FLOPs in registers; memcpy:
  as many bytes copied. GB/s: of keys and values, each counted once."""


@dataclass(frozen=True)
class CaseResult:
    """Median seconds of one case, of the roofs above it and of others that ran beside it."""

    label: str
    threads: int
    num_bytes: int
    flops: float
    seconds: float
    roofs: dict[str, float]  # seconds that each roof would allow
    others: dict[str, float] = field(default_factory=dict)  # seconds of each

    @property
    def key(self) -> str:
        """What it is, for finding it in another report."""
        return f"{self.label}, {counted(self.threads, 'thread')}"

    @property
    def bound(self) -> str:
        """The lowest roof: the one that takes longest."""
        return max(self.roofs, key=lambda name: self.roofs[name])

    @property
    def of_ceiling(self) -> float:
        """Speed as a part of what the lowest roof allows: 1 is as fast as can be."""
        return self.roofs[self.bound] / self.seconds

    @property
    def bound_by_memory(self) -> bool:
        """Whether bytes, not FLOPs, are the lowest roof."""
        return self.bound in (MEMORY, MEMCPY)

    def over(self, other: str) -> float:
        """How many times as fast as another that ran beside it."""
        return self.others[other] / self.seconds

    def row(self) -> str:
        """A line under TABLE_HEAD."""
        work, unit = (self.num_bytes, "GB/s") if self.bound_by_memory else (self.flops, "GFLOP/s")
        speed = f"{work / self.seconds / 1e9:.1f} {unit}"
        ceiling = f"{self.of_ceiling:5.0%} {self.bound}"
        others = ", ".join(f"{name} {self.over(name):.1f}x" for name in self.others)
        return (
            f"{self.label:46} {self.threads:7d} {_time(self.seconds):>10} {speed:>14}  "
            f"{ceiling:18}  {others}"
        ).rstrip()

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "key": self.key,
            **asdict(self),
            "bound": self.bound,
            "of_ceiling": self.of_ceiling,
        }


@dataclass(frozen=True)
class BenchReport:
    """What quire bench found. print() shows it as a table."""

    version: str
    instruction_set: str
    results: list[CaseResult]

    @property
    def disturbed(self) -> str:
        """A warning where a case came out faster than its ceiling, else nothing."""
        return disturbed(self.results)

    def roof_speeds(self, threads: int) -> dict[str, float]:
        """Median speed of each roof over cases with so many threads: bytes or FLOPs a second."""
        speeds: dict[str, list[float]] = {}
        for result in self.results:
            if result.threads != threads:
                continue
            for name, seconds in result.roofs.items():
                work = result.num_bytes if name in (MEMORY, MEMCPY) else result.flops
                speeds.setdefault(name, []).append(work / seconds)
        return {name: float(np.median(values)) for name, values in speeds.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; read_report reads it back."""
        return {
            "format": FORMAT,
            "version": self.version,
            "instruction_set": self.instruction_set,
            "cases": [result.as_dict() for result in self.results],
        }

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Each case under its roof, and as a part of it. Needs matplotlib, the extra "plot".

        Args:
            path: of a picture to write; None: only return the figure.

        Returns:
            The matplotlib Figure.

        Raises:
            ImportError: without matplotlib.
        """
        from quire.plotting import plot_bench

        return plot_bench(self, path)

    def __str__(self) -> str:
        lines = [f"quire {self.version}, {self.instruction_set}, cold blocks in random order"]
        for threads in sorted({result.threads for result in self.results}):
            speeds = ", ".join(
                f"{name} {speed / 1e9:.1f} {'GB/s' if name in (MEMORY, MEMCPY) else 'GFLOP/s'}"
                for name, speed in self.roof_speeds(threads).items()
            )
            lines.append(f"roofs with {counted(threads, 'thread')}: {speeds}")
        lines += ["", TABLE_HEAD, *(result.row() for result in self.results), "", TABLE_FOOT]
        return "\n".join(lines + ([self.disturbed] if self.disturbed else []))


@dataclass(frozen=True)
class Comparison:
    """Two reports, case by case. print() shows it as a table."""

    before: BenchReport
    now: BenchReport

    @property
    def ratios(self) -> dict[str, float]:
        """By key: how many times as fast as before, of the cases that both have."""
        before = {result.key: result.seconds for result in self.before.results}
        return {
            result.key: before[result.key] / result.seconds
            for result in self.now.results
            if result.key in before
        }

    def __str__(self) -> str:
        before = {result.key: result for result in self.before.results}
        now = {result.key: result for result in self.now.results}
        lines = [f"{'case':58} {'before':>10} {'now':>10} {'faster':>8}  of ceiling"]
        lines += [
            f"{key:58} {_time(before[key].seconds):>10} {_time(now[key].seconds):>10} "
            f"{ratio:7.2f}x  {before[key].of_ceiling:4.0%} -> {now[key].of_ceiling:4.0%}"
            for key, ratio in self.ratios.items()
        ]
        for name, only in (("before", before.keys() - now), ("now", now.keys() - before)):
            lines += [f"{key:58} only {name}" for key in sorted(only)]
        sets = (self.before.instruction_set, self.now.instruction_set)
        if sets[0] != sets[1]:
            lines.append(f"before on {sets[0]}, now on {sets[1]}")
        return "\n".join(lines)


def disturbed(results: Sequence[CaseResult]) -> str:
    """A warning where a case came out faster than its ceiling, which only a busy machine can give.

    Example:
        >>> print(disturbed(results) or "a quiet machine")
    """
    bounded = [result for result in results if result.bound != MEMCPY]  # which can be outrun
    worst = max(bounded, key=lambda result: result.of_ceiling, default=None)
    if worst is None or worst.of_ceiling <= MOST_OF_CEILING:
        return ""
    return (
        f"WARNING: {worst.of_ceiling:.0%} of {worst.bound} ({worst.key}): something else used the "
        "machine; run this again"
    )


def read_report(path: str | PathLike[str]) -> BenchReport:
    """A report from a file that `quire bench --json` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else, or has no case.
    """
    try:
        found = json.loads(Path(path).read_text())
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"no format {FORMAT!r}")
        results = [_result(case) for case in found["cases"]]
        if not results:
            raise ValueError("no case")
        return BenchReport(str(found["version"]), str(found["instruction_set"]), results)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--compare: got {path} ({type(error).__name__}: {error}), "
            "expected a file that quire bench --json wrote"
        ) from error


def _result(case: dict[str, Any]) -> CaseResult:
    result = CaseResult(
        str(case["label"]),
        int(case["threads"]),
        int(case["num_bytes"]),
        float(case["flops"]),
        _seconds(case["seconds"]),
        {str(name): _seconds(value) for name, value in case["roofs"].items()},
        {str(name): _seconds(value) for name, value in case["others"].items()},
    )
    if not result.roofs:
        raise ValueError(f"{result.key} has no roof")
    return result


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"got {seconds} seconds")
    return seconds


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
