"""Pictures of reports. matplotlib is asked for only here, when a picture is."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from quire.verification import VerifyReport


def plot_report(report: VerifyReport, path: str | PathLike[str] | None) -> Any:
    """RMS per step of each implementation on a log axis, with the bar that none may reach."""
    from quire.verification import RMS_BAR

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "VerifyReport.plot: needs matplotlib, expected: pip install 'quire[plot]'"
        ) from error
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for (name, result), style in zip(report.results.items(), ("-", "--"), strict=False):
        # a log axis has no zero: an exact step is drawn at the smallest double's neighbourhood
        axes.semilogy(np.maximum(result.rms, 1e-12), style, label=name, linewidth=1.2)
    axes.axhline(RMS_BAR, color="crimson", linewidth=1, label=f"bar {RMS_BAR:g}")
    axes.set_xlabel("decode step")
    axes.set_ylabel("RMS difference from float64")
    axes.set_title(f"{report.source}, {report.settings['dtype']}")
    axes.legend()
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
