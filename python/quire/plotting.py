"""Pictures of reports. matplotlib is asked for only here, when a picture is."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from quire.report import VerifyReport


def figure_class() -> Any:
    """matplotlib's Figure, or an ImportError that says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "VerifyReport.plot: needs matplotlib, expected: pip install 'quire[plot]'"
        ) from error
    return Figure


def plot_report(report: VerifyReport, path: str | PathLike[str] | None) -> Any:
    """RMS per step of each implementation on a log axis, with the bar that none may reach."""
    figure = figure_class()(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for (name, result), style in zip(report.results.items(), ("-", "--", ":"), strict=True):
        # a log axis has no zero: an exact step is drawn at the foot
        shown = np.maximum(result.rms, 1e-12)
        axes.semilogy(shown, style, label=f"{name}, from {result.against}", linewidth=1.2)
    axes.axhline(report.bar, color="crimson", linewidth=1, label=f"bar {report.bar:g}")
    axes.set_xlabel("decode step")
    axes.set_ylabel("RMS difference")
    # "$" would begin a formula
    source = report.source.replace("$", r"\$")
    axes.set_title(f"{source}, {report.settings['dtype']} cache")
    axes.legend()
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
