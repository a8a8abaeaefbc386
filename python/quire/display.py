"""Pools and tables as pictures in a notebook: a strip of blocks, inline SVG."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quire._core import BlockPool, BlockTable

# In the middle of the scale of brightness, to be seen on light and on dark pages.
COLOURS = {"free": "#9aa0a6", "private": "#4285f4", "shared": "#f29900"}
_SIZE, _GAP, _COLUMNS = 10, 2, 64
_MOST_CELLS = 1024


def pool_html(pool: BlockPool) -> str:
    """A cell for each block, or for several where there are many: free, private or shared.

    Args:
        pool: any BlockPool.

    Returns:
        HTML with an inline SVG, of at most some 100 KB however large the pool.
    """
    stats = pool.stats()
    per_cell = max(1, -(-pool.num_blocks // _MOST_CELLS))
    states = np.minimum(pool.ref_counts, 2)
    padded = np.pad(states, (0, -len(states) % per_cell)).reshape(-1, per_cell)
    cells = padded.max(axis=1)
    names = list(COLOURS)
    titles = [
        f"block {i * per_cell}" if per_cell == 1 else f"blocks {i * per_cell} and on"
        for i in range(len(cells))
    ]
    title = (
        f"BlockPool: {stats.num_blocks} blocks of {pool.block_size} tokens, {stats.free} free, "
        f"{stats.used} used, {stats.shared} shared"
    )
    drawn = [(names[state], label) for state, label in zip(cells.tolist(), titles, strict=True)]
    note = f", a cell is {per_cell} blocks and shows the most shared" if per_cell > 1 else ""
    return _figure(title + note, drawn)


def table_html(table: BlockTable) -> str:
    """A cell for each block of the table, in its order: private or shared.

    Args:
        table: any BlockTable, freed or not.

    Returns:
        HTML with an inline SVG.
    """
    try:
        blocks, tokens = table.blocks, table.num_tokens
    except ValueError:
        return "<div>BlockTable (freed)</div>"
    counts: npt.NDArray[Any] = table.pool.ref_counts[blocks]
    cells = [
        ("shared" if count > 1 else "private", f"block {block}, {count} references")
        for block, count in zip(blocks.tolist(), counts.tolist(), strict=True)
    ]
    shown = cells[:_MOST_CELLS]
    title = (
        f"BlockTable: {tokens} tokens in {len(cells)} blocks of {table.pool.block_size}, "
        f"{sum(state == 'shared' for state, _ in cells)} shared"
    )
    note = f", the first {_MOST_CELLS} drawn" if len(shown) < len(cells) else ""
    return _figure(title + note, shown)


def _figure(title: str, cells: list[tuple[str, str]]) -> str:
    step = _SIZE + _GAP
    rows = -(-len(cells) // _COLUMNS)
    width = min(len(cells), _COLUMNS) * step
    squares = "".join(
        f'<rect x="{i % _COLUMNS * step}" y="{i // _COLUMNS * step}" width="{_SIZE}" '
        f'height="{_SIZE}" fill="{COLOURS[state]}"><title>{label}, {state}</title></rect>'
        for i, (state, label) in enumerate(cells)
    )
    legend = " ".join(
        f'<span style="color:{colour}">&#9632;</span> {state}' for state, colour in COLOURS.items()
    )
    return (
        f"<div><div>{title}</div>"
        f'<svg width="{width}" height="{rows * step}" role="img" aria-label="{title}">'
        f"{squares}</svg>"
        f"<div>{legend}</div></div>"
    )
