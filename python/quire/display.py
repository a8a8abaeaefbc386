"""Pools and tables as pictures in a notebook: a strip of blocks, inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from quire._core import BlockPool, BlockTable
from quire.counted import counted
from quire.table_report import TableReport

# Of middle brightness, to be seen on light and on dark pages. Text has the page's own colour.
COLOURS = {
    "free": "#9aa0a6",
    "private": "#4285f4",
    "shared": "#f29900",
    "cached": "#2e9e5b",
    "offloaded": "#a15ac7",
    "hole": "#c5221f",
    "open": "#12a5b5",
}
_SEQUENCE_COLOURS = (
    "#4285f4",
    "#f29900",
    "#2e9e5b",
    "#a15ac7",
    "#c5221f",
    "#12a5b5",
    "#b06f3c",
    "#e377c2",
)
FREE, PRIVATE, SHARED, CACHED, OFFLOADED, HOLE, OPEN = range(7)
_SIZE, _STEP, _COLUMNS = 10, 12, 64
_MOST_CELLS = 7 * _COLUMNS  # more blocks share cells, so that the HTML stays below 50 KB

_States = npt.NDArray[np.int64]


def pool_html(pool: BlockPool) -> str:
    """A cell for each block by its id: free, private (one reference), shared, cached (by prefix
    caches alone) or offloaded.

    Large pools show several blocks in a cell, each state in proportion.

    Args:
        pool: any BlockPool.

    Returns:
        HTML with an inline SVG, below 50 KB however large the pool.

    Example:
        >>> IPython.display.HTML(pool_html(pool))      # what a notebook does by itself
    """
    states = np.minimum(pool.ref_counts, SHARED).astype(np.int64)
    states[pool.cached_blocks] = CACHED
    states[(states != FREE) & ~pool.resident_blocks] = OFFLOADED
    labels = [f"block {i}" for i in range(len(states))] if len(states) <= _MOST_CELLS else []
    of_token = f"{pool.stats().bytes_per_token:,.1f}".removesuffix(".0")
    title = (
        f"BlockPool: {counted(len(states), 'block')} of {counted(pool.block_size, 'token')}, "
        f"{of_token} bytes a token"
    )
    return _figure(title, states, labels)


def table_html(table: BlockTable) -> str:
    """A cell for each block in the order of tokens: private, shared, offloaded, or a hole; open
    where the table reads it in full precision, shared or not.

    Args:
        table: any BlockTable, freed or not.

    Returns:
        HTML with an inline SVG, below 50 KB however long the table.

    Example:
        >>> IPython.display.HTML(table_html(table))    # what a notebook does by itself
    """
    try:
        blocks, tokens = table.blocks, table.num_tokens
        open_blocks = _open_blocks(table)
    except ValueError:  # freed
        return "<div>BlockTable, freed</div>"
    counts: npt.NDArray[Any] = table.pool.ref_counts[blocks]
    states = np.clip(counts, PRIVATE, SHARED).astype(np.int64)
    states[~table.pool.resident_blocks[blocks]] = OFFLOADED
    states[np.isin(blocks, open_blocks)] = OPEN
    states[blocks < 0] = HOLE
    labels = []
    if len(blocks) <= _MOST_CELLS:
        labels = [
            f"block {block}, {counted(count, 'reference')}" if block >= 0 else "dropped tokens"
            for block, count in zip(blocks.tolist(), counts.tolist(), strict=True)
        ]
    title = (
        f"BlockTable: {counted(tokens, 'token')} in {counted(len(blocks), 'block')} "
        f"of {counted(table.pool.block_size, 'token')}"
    )
    return _figure(title, states, labels)


def table_report_html(report: TableReport) -> str:
    """What pool.explain says of a table, in the order of its tokens, as it was then.

    Args:
        report: any TableReport.

    Returns:
        HTML with an inline SVG, below 50 KB however long the table was.

    Example:
        >>> IPython.display.HTML(table_report_html(pool.explain(table)))
    """
    states, labels = [], []
    for block in report.blocks:
        state = SHARED if block.is_shared else PRIVATE
        state = state if block.is_resident else OFFLOADED
        state = OPEN if block.is_open else state
        states.append(HOLE if block.is_hole else state)
        holders = f"{counted(block.tables, 'table')}, {counted(block.caches, 'cache')}"
        fill = f"{block.num_tokens} of {counted(report.block_size, 'token')}"
        labels.append("dropped tokens" if block.is_hole else f"block {block.id}, {fill}, {holders}")
    title = (
        f"TableReport: {counted(report.num_tokens, 'token')} in "
        f"{counted(len(states), 'block')} of {counted(report.block_size, 'token')}"
    )
    return _figure(title, np.array(states, np.int64), labels if len(labels) <= _MOST_CELLS else [])


def sequences_html(tables: Mapping[str, BlockTable]) -> str:
    """The blocks of a pool, coloured by the sequences that have them: a block that several share is
    divided between them.

    Args:
        tables: tables of one pool, at least one, by the name that the legend shows; colours repeat
            after eight.

    Returns:
        HTML with an inline SVG. Blocks that none of the tables has are grey, whoever holds them.

    Raises:
        ValueError: no tables, a freed one, or tables of two pools.

    Example:
        >>> IPython.display.HTML(sequences_html({"parent": table, "child": table.fork()}))
    """
    pools = {id(table.pool): table.pool for table in tables.values()}
    if len(pools) != 1:
        raise ValueError(
            f"sequences_html: tables: got tables of {counted(len(pools), 'pool')}, expected of one"
        )
    (pool,) = pools.values()
    owners: list[list[int]] = [[] for _ in range(pool.num_blocks)]
    for sequence, table in enumerate(tables.values()):
        for block in table.blocks[table.blocks >= 0].tolist():
            owners[block].append(sequence)
    names = [escape(name) for name in tables]
    colours = [_SEQUENCE_COLOURS[i % len(_SEQUENCE_COLOURS)] for i in range(len(names))]
    paths = []
    for block, sequences in enumerate(owners):
        label = f"block {block}: " + (", ".join(names[i] for i in sequences) or "none of these")
        ends = [round(_SIZE * (i + 1) / len(sequences)) for i in range(len(sequences))]
        parts = list(zip([0, *ends], ends, (colours[i] for i in sequences), strict=False))
        for begin, end, colour in parts or [(0, _SIZE, COLOURS["free"])]:
            bar = _bar(block, begin, end)
            paths.append(f'<path fill="{colour}" d="{bar}"><title>{label}</title></path>')
    lengths = [counted(table.num_tokens, "token") for table in tables.values()]
    legend = " &nbsp; ".join(
        f'<span style="color:{colour}">&#9632;</span> {name}, {length}'
        for colour, name, length in zip(colours, names, lengths, strict=True)
    )
    title = f"{counted(len(names), 'sequence')} in {counted(pool.num_blocks, 'block')}"
    return _svg(title, title, pool.num_blocks, "".join(paths), legend)


def _open_blocks(table: BlockTable) -> list[int]:
    if table.pool.open_blocks == 0:
        return []
    return [block.id for block in table.pool.explain(table).blocks if block.is_open]


def _figure(title: str, states: _States, labels: list[str]) -> str:
    """The strip, its title and legend. labels: of each block; none where blocks share cells."""
    per_cell = max(1, -(-len(states) // _MOST_CELLS))
    cells = -(-len(states) // per_cell)
    counts = np.bincount(states, minlength=len(COLOURS))
    named = [(name, int(n)) for name, n in zip(COLOURS, counts, strict=True) if n]
    summary = ", ".join(f"{n} {name}" for name, n in named)
    heading = escape(f"{title}: {summary}" if len(states) else title)
    drawn = _single_cells(states, labels) if labels else _binned_cells(states, per_cell)
    legend = " &nbsp; ".join(
        f'<span style="color:{COLOURS[name]}">&#9632;</span> {name} {n}' for name, n in named
    )
    note = f" &nbsp; (a square is {per_cell} blocks)" if per_cell > 1 else ""
    return _svg(escape(title), heading, cells, drawn, legend + note)


def _svg(title: str, heading: str, cells: int, drawn: str, legend: str) -> str:
    """The strip between its title and its legend. heading: what is read aloud."""
    width = max(1, min(cells, _COLUMNS) * _STEP)
    height = max(1, -(-cells // _COLUMNS) * _STEP)
    return (
        f'<div><div>{title}</div><svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" role="img" aria-label="{heading}"><title>{heading}</title>{drawn}</svg>'
        f"<div>{legend}</div></div>"
    )


def _single_cells(states: _States, labels: list[str]) -> str:
    """A square with a title of its own for each block."""
    names = list(COLOURS)
    return "".join(
        f'<path fill="{COLOURS[names[state]]}" d="{_bar(i, 0, _SIZE)}">'
        f"<title>{escape(label)}, {names[state]}</title></path>"
        for i, (state, label) in enumerate(zip(states.tolist(), labels, strict=True))
    )


def _binned_cells(states: _States, per_cell: int) -> str:
    """Squares of several blocks, divided from top to bottom in proportion to their states."""
    paths: list[list[str]] = [[] for _ in COLOURS]
    for i in range(0, -(-len(states) // per_cell)):
        counts = np.bincount(states[i * per_cell : (i + 1) * per_cell], minlength=len(COLOURS))
        ends = np.rint(np.cumsum(counts) / counts.sum() * _SIZE).astype(int).tolist()
        for path, begin, end in zip(paths, [0, *ends], ends, strict=False):
            if end > begin:
                path.append(_bar(i, begin, end))
    return "".join(
        f'<path fill="{COLOURS[name]}" d="{"".join(path)}"><title>{name}</title></path>'
        for name, path in zip(COLOURS, paths, strict=True)
        if path
    )


def _bar(cell: int, begin: int, end: int) -> str:
    """SVG path of the part of a cell's square between two heights."""
    x, y = cell % _COLUMNS * _STEP, cell // _COLUMNS * _STEP
    return f"M{x} {y + begin}h{_SIZE}v{end - begin}h-{_SIZE}z"
