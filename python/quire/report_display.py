"""Reports as pictures in a notebook: bars, lines and tables, inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from quire._core import PrefixCache
from quire.counted import counted
from quire.display import COLOURS

if TYPE_CHECKING:
    from quire.memory_report import MemoryReport
    from quire.report import VerifyReport

# Of what a match gives: what was found is as what is cached, and the reasons of misses as they are
# told, in the order of stats().misses_by_reason.
_FOUND, _NOT_FOUND = COLOURS["cached"], COLOURS["free"]
_REASONS = {
    "cold": "#9aa0a6",
    "short": "#4285f4",
    "evicted": "#c5221f",
    "other_namespace": "#a15ac7",
    "preempted": "#f29900",
}
_WIDTH, _HEIGHT = 480, 14
_LINES = (COLOURS["private"], COLOURS["shared"], COLOURS["cached"])
_PLOT_HEIGHT, _MOST_POINTS = 120, 240


def cache_html(cache: PrefixCache) -> str:
    """How much is cached, how many of the tokens asked for were found, and why matches missed.

    Args:
        cache: any PrefixCache.

    Returns:
        HTML with two inline SVGs of a bar each; of a few KB, however much is cached.

    Example:
        >>> IPython.display.HTML(cache_html(cache))    # what a notebook does by itself
    """
    stats = cache.stats()
    limit = "" if cache.max_blocks is None else f" of at most {cache.max_blocks}"
    pinned = cache.pool.stats().pinned
    title = f"PrefixCache: {counted(len(cache), 'block')}{limit}"
    title += f", {counted(stats.evictions, 'eviction')}"
    title += f"; {pinned} pinned in its pool" if pinned else ""
    tokens = {
        "found": (stats.tokens_matched, _FOUND),
        "to compute": (stats.tokens_asked - stats.tokens_matched, _NOT_FOUND),
    }
    matches = {"hits": (stats.hits, _FOUND)}
    for reason, count in stats.misses_by_reason.items():
        matches[f"missed: {reason.replace('_', ' ')}"] = (count, _REASONS[reason])
    return (
        f"<div><div>{escape(title)}</div>{_bar('tokens asked for', tokens)}"
        f"{_bar('matches', matches)}</div>"
    )


def verify_html(report: VerifyReport) -> str:
    """The report's text, and the RMS error of each step, on a log axis, under the bar.

    Args:
        report: any VerifyReport.

    Returns:
        HTML with an inline SVG, below 50 KB however many steps there were: of more than 240, each
        point is the worst of several.

    Example:
        >>> quire.verify()                             # what a notebook does by itself
    """
    errors = {name: _worst(result.rms) for name, result in report.results.items()}
    finite = np.concatenate([values[np.isfinite(values)] for values in errors.values()])
    low = np.log10(max(1e-12, min([*finite[finite > 0].tolist(), report.bar]))) - 0.3
    high = np.log10(max([*finite.tolist(), report.bar])) + 0.3

    def height(value: float) -> float:
        value = np.log10(max(1e-12, value)) if np.isfinite(value) else high
        return round(float((high - value) / (high - low)) * _PLOT_HEIGHT, 1)

    lines = [
        f'<path stroke="{COLOURS["hole"]}" stroke-dasharray="4 3" fill="none" '
        f'd="M0 {height(report.bar)}h{_WIDTH}"><title>bar, {report.bar:g}</title></path>'
    ]
    legend = []
    for (name, values), colour in zip(errors.items(), _LINES, strict=False):
        step = _WIDTH / max(1, len(values) - 1)
        points = [f"{round(i * step, 1)} {height(value)}" for i, value in enumerate(values)]
        path = "M" + "L".join(points) + ("h2" if len(points) == 1 else "")
        label = f"{escape(name)}, at most {np.max(values):.2g}"
        lines.append(
            f'<path stroke="{colour}" fill="none" d="{path}"><title>{label}</title></path>'
        )
        legend.append(f'<span style="color:{colour}">&#9632;</span> {label}')
    heading = escape(f"RMS error of each step, bar {report.bar:g}")
    legend.append(f'<span style="color:{COLOURS["hole"]}">&#9632;</span> bar {report.bar:g}')
    return (
        f"<div><pre>{escape(str(report))}</pre>{_svg(_PLOT_HEIGHT, heading, ''.join(lines))}"
        f"<div>{heading}: {' &nbsp; '.join(legend)}</div></div>"
    )


def memory_html(report: MemoryReport) -> str:
    """A table of the formats of a model's weights, and a bar of what each takes in memory.

    Args:
        report: any MemoryReport.

    Returns:
        HTML with an inline SVG, of a few KB.

    Example:
        >>> model.memory_report()                      # what a notebook does by itself
    """
    sizes = {line["packed"]: 0 for line in report}
    for line in report:
        sizes[line["packed"]] += line["bytes"]
    colours = list(COLOURS.values())
    parts = {
        name: (size, colours[i % len(colours)]) for i, (name, size) in enumerate(sizes.items())
    }
    headings, *rows = report.rows()
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div>{_bar('bytes of weights', parts)}{table}</div>"


def _worst(values: np.ndarray) -> np.ndarray:
    """At most _MOST_POINTS of them, each the greatest of those that it stands for."""
    per_point = -(-len(values) // _MOST_POINTS)
    return np.array([np.max(values[i : i + per_point]) for i in range(0, len(values), per_point)])


def _bar(name: str, parts: Mapping[str, tuple[int, str]]) -> str:
    """A bar of parts in proportion, with a legend that counts them; empty where all are 0."""
    total = sum(count for count, _ in parts.values())
    ends = np.rint(np.cumsum([count for count, _ in parts.values()]) / max(1, total) * _WIDTH)
    paths, legend = [], []
    begin = 0
    for (label, (count, colour)), end in zip(parts.items(), ends.astype(int).tolist(), strict=True):
        if count == 0:
            continue
        paths.append(
            f'<path fill="{colour}" d="M{begin} 0h{end - begin}v{_HEIGHT}H{begin}z">'
            f"<title>{escape(label)} {count}</title></path>"
        )
        legend.append(f'<span style="color:{colour}">&#9632;</span> {escape(label)} {count}')
        begin = end
    heading = escape(f"{total} {name}")
    return (
        f"{_svg(_HEIGHT, heading, ''.join(paths))}<div>{heading}: {' &nbsp; '.join(legend)}</div>"
    )


def _svg(height: int, heading: str, drawn: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" role="img" '
        f'aria-label="{heading}"><title>{heading}</title>{drawn}</svg>'
    )
