"""Pictures of reports. matplotlib is asked for only here, when a picture is."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from quire.bench_report import BenchReport
    from quire.report import VerifyReport

ROOF_COLORS = {
    "memory": "tab:blue",
    "memcpy": "tab:purple",
    "float32 FMA": "tab:orange",
    "bfloat16 dot": "tab:red",
}


def figure_class(asked: str = "VerifyReport.plot") -> Any:
    """matplotlib's Figure, or an ImportError that says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"{asked}: needs matplotlib, expected: pip install 'quire-kv[plot]'"
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


def plot_bench(report: BenchReport, path: str | PathLike[str] | None) -> Any:
    """The roofline with each case below its ceiling, and beside it each case as a part of that."""
    height = max(5.0, 0.19 * len(report.results) + 1.2)
    figure = figure_class("BenchReport.plot")(figsize=(15, height), layout="constrained")
    roofline, parts = figure.subplots(1, 2, width_ratios=(1, 1))
    _draw_roofline(roofline, report)
    _draw_parts(parts, report)
    figure.suptitle(f"quire {report.version} on {report.instruction_set}")
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _draw_roofline(axes: Any, report: BenchReport) -> None:
    """FLOP/s over FLOPs per byte: a case is a dot, its ceiling the tick at the end of its line."""
    computing = [result for result in report.results if result.flops > 0]
    for result in computing:
        intensity = result.flops / result.num_bytes
        achieved = result.flops / result.seconds / 1e9
        ceiling = achieved / result.of_ceiling
        color = ROOF_COLORS[result.bound]
        filled = color if result.threads == 1 else "white"
        axes.plot([intensity] * 2, [achieved, ceiling], color=color, linewidth=0.6, alpha=0.6)
        axes.plot(intensity, ceiling, "_", color=color, markersize=9)
        axes.plot(intensity, achieved, "o", color=color, markerfacecolor=filled, markersize=5)
    intensities = [result.flops / result.num_bytes for result in computing] or [1.0]
    span = np.geomspace(min(intensities) / 2, max(intensities) * 2)
    for threads in sorted({result.threads for result in report.results}):
        speeds = report.roof_speeds(threads)
        arithmetic = {name: s for name, s in speeds.items() if name not in ("memory", "memcpy")}
        for name, speed in arithmetic.items():
            roof = np.minimum(span * speeds["memory"], speed) / 1e9
            style = "-" if threads == 1 else "--"
            label = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
            axes.plot(span, roof, style, color=ROOF_COLORS[name], linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOPs per byte of keys and values")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("each case (filled: one thread) below its own ceiling")
    axes.legend()


def _draw_parts(axes: Any, report: BenchReport) -> None:
    """A bar for each case: its speed as a part of what its lowest roof allows."""
    for bound, color in ROOF_COLORS.items():
        bars = [(i, r.of_ceiling) for i, r in enumerate(report.results) if r.bound == bound]
        if bars:
            axes.barh(*zip(*bars, strict=True), color=color, height=0.7, label=bound)
    keys = [result.key for result in report.results]
    axes.set_yticks(range(len(keys)), keys, fontsize=7)
    axes.set_ylim(len(keys) - 0.5, -0.5)
    axes.axvline(1, color="black", linewidth=1)
    axes.xaxis.set_major_formatter(lambda part, _: f"{part:.0%}")
    axes.set_title("speed as a part of what the lowest roof allows")
    axes.legend()
