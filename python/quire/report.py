"""What quire.verify found, as numbers, as a table and as a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.counted import counted

Floats = npt.NDArray[np.float64]

RMS_BAR = 5e-3


@dataclass(frozen=True)
class ImplementationResult:
    """How far one implementation was from another, a step at a time: arrays of [steps]."""

    name: str
    against: str
    bar: float
    rms: Floats = field(repr=False)  # root mean square of the differences; of the worst sequence
    max_abs: Floats = field(repr=False)  # the largest difference of any value
    seconds: Floats = field(repr=False)  # that the implementation took

    @property
    def passed(self) -> bool:
        """Every step's RMS is below the bar; NaN is not."""
        return bool(np.all(self.rms < self.bar))

    @property
    def worst_step(self) -> int:
        """The step with the largest RMS, or the first that is NaN."""
        return int(np.argmax(self.rms))  # NaN counts as the largest

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; null where a number is not finite."""
        return {
            "against": self.against,
            "passed": self.passed,
            "worst_step": self.worst_step,
            "rms": _finite_or_none(self.rms),
            "max_abs": _finite_or_none(self.max_abs),
            "seconds": self.seconds.tolist(),
        }


@dataclass(frozen=True)
class VerifyReport:
    """What quire.verify found. print() shows it as a table.

    results: of fused and gather, against dense, and of dense, against plain NumPy.
    exact: [steps] bool: after the step, every table held bit for bit what was written.
    """

    source: str
    settings: dict[str, Any]
    bar: float
    results: dict[str, ImplementationResult]
    exact: npt.NDArray[np.bool_] = field(repr=False)

    @property
    def rms(self) -> Floats:
        """Root mean square difference of fused from dense, [steps]."""
        return self.results["fused"].rms

    @property
    def max_abs(self) -> float:
        """The largest difference of fused from dense, of any value at any step."""
        return float(np.max(self.results["fused"].max_abs))

    @property
    def contents_exact(self) -> bool:
        """The cache held bit for bit what was written, after each step."""
        return bool(self.exact.all())

    @property
    def passed(self) -> bool:
        """Every RMS of every implementation is below the bar, and the contents are exact."""
        return self.contents_exact and all(result.passed for result in self.results.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {
            "source": self.source,
            "settings": self.settings,
            "bar": self.bar,
            "passed": self.passed,
            "contents_exact": self.contents_exact,
            "exact": self.exact.tolist(),
            "implementations": {name: result.as_dict() for name, result in self.results.items()},
        }

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """RMS per step on a log axis, with the bar. Needs matplotlib, the extra "plot".

        Args:
            path: of a picture to write; None: only return the figure.

        Returns:
            The matplotlib Figure.

        Raises:
            ImportError: without matplotlib.

        Example:
            >>> quire.verify().plot("rms.png")
        """
        from quire.plotting import plot_report

        return plot_report(self, path)

    def _repr_html_(self) -> str:
        from quire.report_display import verify_html

        return verify_html(self)

    def __str__(self) -> str:
        settings = self.settings
        hq, hkv = settings["heads"]
        d, dv = settings["head_dims"]
        lines = [
            f"{self.source}: {counted(settings['context'], 'token')} of context, "
            f"{counted(settings['steps'], 'decode step')}, batch {settings['batch']}",
            f"heads {hq}:{hkv}, head size {d if d == dv else f'{d} and {dv}'}, "
            f"{settings['dtype']} cache in scattered blocks of "
            f"{counted(settings['block_size'], 'token')}, "
            f"{settings['instruction_set']}",
            "",
            f"{'':8} {'compared':>9} {'RMS':>10} {'RMS':>10} {'step of':>8} {'largest':>10} "
            f"{'time per':>10}",
            f"{'':8} {'with':>9} {'median':>10} {'worst':>10} {'worst':>8} {'error':>10} "
            f"{'step':>10}",
        ]
        lines += [
            f"{name:8} {result.against:>9} {np.median(result.rms):10.2e} "
            f"{np.max(result.rms):10.2e} {result.worst_step:8d} {np.max(result.max_abs):10.2e} "
            f"{np.median(result.seconds) * 1e6:7.0f} us"
            for name, result in self.results.items()
        ]
        contents = "exact" if self.contents_exact else f"WRONG at step {np.argmin(self.exact)}"
        lines += ["", f"cache contents: {contents}", self._verdict()]
        return "\n".join(lines)

    def _verdict(self) -> str:
        if self.passed:
            return f"passed: RMS < {self.bar:g} at every step"
        failed = [name for name, result in self.results.items() if not result.passed]
        reasons = [f"RMS of {', '.join(failed)} not below {self.bar:g}"] if failed else []
        reasons += [] if self.contents_exact else ["the cache does not hold what was written"]
        return f"FAILED: {'; '.join(reasons)}"


def _finite_or_none(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
