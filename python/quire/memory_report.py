"""What the weights of a model take in memory, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_HEADINGS = ("stored", "in memory", "tensors", "numbers", "bytes", "bits a number")


class MemoryReport(list[dict[str, Any]]):
    """What the weights of a model take in memory, and what became of each format they came in.

    A list with a dict for each pair of formats: "stored" ("BF16", "Q4_K", as the file calls it),
    "packed" ("bfloat16", "int4"), "tensors" and "numbers", how many, and "bytes", in memory.
    Printed, and in a notebook, it is a table.
    """

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        super().__init__(lines)

    @property
    def total_bytes(self) -> int:
        """Of all weights, in memory."""
        return sum(line["bytes"] for line in self)

    def rows(self) -> list[tuple[str, ...]]:
        """The table as text: headings, a row for each pair of formats, and their sum."""
        rows: list[tuple[str, ...]] = [_HEADINGS]
        rows += [_row(line["stored"], line["packed"], [line]) for line in self]
        return [*rows, _row("all", "", self)]

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
            numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join([*names, *numbers]))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from quire.report_display import memory_html

        return memory_html(self)


def _row(stored: str, packed: str, lines: list[dict[str, Any]]) -> tuple[str, ...]:
    tensors, numbers, size = (
        sum(line[name] for line in lines) for name in ("tensors", "numbers", "bytes")
    )
    bits = f"{8 * size / numbers:.2f}" if numbers else ""
    return stored, packed, f"{tensors:,}", f"{numbers:,}", f"{size:,}", bits
