"""What model.memory_report says: what the weights take in memory, by what became of each format."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

_COLUMNS = ("stored", "packed", "tensors", "numbers", "MB")


@dataclass(frozen=True)
class FormatMemory:
    """Weights that were stored in one format, and are in memory in one.

    Attributes:
        stored: as the file calls it: "BF16", "F32", "Q4_K", ...
        packed: as products read it: "float32", "float16", "bfloat16", "int8" or "int4".
        tensors: how many.
        numbers: of all of them.
        bytes: in memory, scales and padding included.
    """

    stored: str
    packed: str
    tensors: int
    numbers: int
    bytes: int

    def cells(self) -> tuple[str, ...]:
        """Of a row of the table."""
        megabytes = f"{self.bytes / 1e6:.1f}"
        return (self.stored, self.packed, str(self.tensors), f"{self.numbers:,}", megabytes)


@dataclass(frozen=True, repr=False)
class MemoryReport:
    """The weights of a model in memory; as a string, and in a notebook, a table.

    Attributes:
        formats: a FormatMemory for each pair of formats.

    Example:
        >>> print(model.memory_report())
    """

    formats: tuple[FormatMemory, ...]

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(line.bytes for line in self.formats)

    def _rows(self) -> list[tuple[str, ...]]:
        tensors = sum(line.tensors for line in self.formats)
        numbers = sum(line.numbers for line in self.formats)
        total = FormatMemory("all", "", tensors, numbers, self.bytes)
        return [line.cells() for line in (*self.formats, total)]

    def __str__(self) -> str:
        rows = [_COLUMNS, *self._rows()]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
            cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join(cells))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._rows()
        )
        return f"<table><tr>{head}</tr>{rows}</table>"
