"""The table of peers.py, and what it comes to: the best peer of each case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peers_cases import Case

HEAD = f"{'peer':25} {'case':13} threads {'median':>11} {'quire':>10} {'ratio':>8}  note"
DISTURBED = 0.1  # processors


@dataclass(frozen=True)
class Row:
    """A peer in a case: median seconds, its and Quire's; None where it was not timed.

    others: processors that other processes used meanwhile, on average.
    """

    peer: str
    paged: bool
    case: Case
    threads: int
    seconds: float | None
    ours: float
    others: float
    wrong: bool
    note: str

    @property
    def ratio(self) -> float | None:
        """How many times as fast Quire is."""
        return None if self.seconds is None else self.seconds / self.ours

    def __str__(self) -> str:
        time = "-" if self.seconds is None else f"{self.seconds * 1e6:.0f} us"
        ratio = "-" if self.ratio is None else f"{self.ratio:.2f} x"
        return (
            f"{self.peer:25} {self.case.name:13} {self.threads:7d} {time:>11} "
            f"{self.ours * 1e6:7.0f} us {ratio:>8}  {self.note}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "case": self.case.name, "ratio": self.ratio}


@dataclass(frozen=True)
class Best:
    """The fastest peer of a case and number of threads, and the fastest that reads blocks."""

    of_all: Row
    of_paged: Row | None

    def __str__(self) -> str:
        row, paged = self.of_all, self.of_paged
        text = f"{row.case.name}, {row.threads} threads: {row.ratio:.2f} x as fast as {row.peer}"
        if paged and paged is not row:
            text += f", {paged.ratio:.2f} x as {paged.peer}"
        text += f"; target {row.case.target:g} x"
        return text + ("; DISTURBED: run again" if row.others > DISTURBED else "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        paged = self.of_paged
        return {
            "case": self.of_all.case.name,
            "threads": self.of_all.threads,
            "peer": self.of_all.peer,
            "ratio": self.of_all.ratio,
            "paged_peer": paged and paged.peer,
            "paged_ratio": paged and paged.ratio,
            "target": self.of_all.case.target,
            "disturbed": self.of_all.others > DISTURBED,
        }


def bests(rows: list[Row]) -> Iterator[Best]:
    """One for each case and number of threads in which any peer was timed."""
    for case, threads in dict.fromkeys((row.case, row.threads) for row in rows):
        group = [row for row in rows if (row.case, row.threads) == (case, threads)]
        timed = sorted((row for row in group if row.ratio), key=lambda row: row.ratio or 0.0)
        if timed:
            yield Best(timed[0], next((row for row in timed if row.paged), None))
