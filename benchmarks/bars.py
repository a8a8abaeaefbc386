"""What the scripts here share: a table as it is measured, then bars, met or missed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from quire import _core
from quire.bench_report import TABLE_FOOT, TABLE_HEAD, CaseResult, disturbed
from quire.benchmark import Bench

THREADS = (1, 2)

# Yields results as they are measured; quick: a run of seconds.
Measure = Callable[[Bench, bool], Iterable[Sequence[CaseResult]]]


@dataclass(frozen=True)
class Bar:
    """A figure of each of some cases, none of which may be beyond the limit."""

    name: str
    figures: dict[str, float]  # by case
    least: float | None = None  # of the two limits one
    most: float | None = None
    unit: str = "%"  # or "x"

    @property
    def worst(self) -> tuple[str, float]:
        """The case nearest to the limit, or farthest beyond it."""
        choose = max if self.least is None else min
        return choose(self.figures.items(), key=lambda item: item[1])

    @property
    def met(self) -> bool:
        """Whether even the worst is within; NaN is not."""
        value = self.worst[1]
        return bool(value <= self.most if self.most is not None else value >= (self.least or 0))

    def line(self) -> str:
        """The verdict, the limit and the worst case."""
        limit = (
            f"<= {self._text(self.most)}"
            if self.most is not None
            else (f">= {self._text(self.least or 0)}")
        )
        if not self.figures:
            return f"none    {self.name} {limit}: no case in this run"
        case, value = self.worst
        verdict = "met   " if self.met else "MISSED"
        return f"{verdict}  {self.name} {limit}: worst {self._text(value)} ({case})"

    def _text(self, value: float) -> str:
        return f"{value:.0%}" if self.unit == "%" else f"{value:.2f}x"


def of_ceiling(name: str, results: Iterable[CaseResult], least: float) -> Bar:
    """The part of the ceiling that each case reaches."""
    return Bar(name, {f"{r.key}, {r.bound}": r.of_ceiling for r in results}, least=least)


def ratios(results: Sequence[CaseResult]) -> dict[str, float]:
    """Of each two results the seconds of the first over those of the second, by the first."""
    pairs = zip(results[::2], results[1::2], strict=True)
    return {first.key: first.seconds / second.seconds for first, second in pairs}


def available(instruction_set: str) -> bool:
    """Whether this machine has it."""
    return instruction_set in _core.build_info()["instruction_sets_available"]


def run(
    description: str, measure: Measure, bars_of: Callable[[list[CaseResult]], list[Bar]]
) -> int:
    """Measure, print the table and the bars; 1 where one is missed or the machine was disturbed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer cases, for some seconds")
    quick = parser.parse_args().quick
    info = _core.build_info()
    print(f"quire {info['version']}, {info['instruction_set']}\n{TABLE_HEAD}")
    results: list[CaseResult] = []
    for measured in measure(Bench(), quick):
        for result in measured:
            results.append(result)
            print(result.row(), flush=True)
    print(f"\n{TABLE_FOOT}\n")
    bars = bars_of(results)
    for bar in bars:
        print(bar.line())
    warning = disturbed(results)
    if warning:
        print(warning)
    return 1 if warning or any(bar.figures and not bar.met for bar in bars) else 0
