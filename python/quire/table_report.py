"""What pool.explain says of a table: its blocks, and who holds each."""

from __future__ import annotations

from dataclasses import dataclass

from quire.counted import counted

_MOST_LINES = 16  # of a text; a longer table shows its first and last blocks
_LAST_LINES = 4


@dataclass(frozen=True)
class BlockReport:
    """A block of a table.

    Attributes:
        id: of the block in the pool; -1: a hole, whose tokens were dropped. All else is 0 then.
        num_tokens: tokens of this table in the block.
        filled_rows: the most tokens that any table has there; more than num_tokens where this table
            was shortened and another was not.
        tables: tables that hold the block, this one among them.
        caches: references of prefix caches.
        users: references of allocate and retain.
        is_resident: whether the block is kept in memory, in all layers; also of a hole.
        is_open: whether this table reads it in full precision, in a pool with open_blocks.

    Example:
        >>> pool.explain(table).blocks[0].references
        2
    """

    id: int
    num_tokens: int
    filled_rows: int
    tables: int
    caches: int
    users: int
    is_resident: bool = True
    is_open: bool = False

    @property
    def references(self) -> int:
        """Of all holders, as in pool.ref_counts."""
        return self.tables + self.caches + self.users

    @property
    def is_hole(self) -> bool:
        """Whether the block was given back."""
        return self.id < 0

    @property
    def is_shared(self) -> bool:
        """Whether somebody else holds the block too; who writes to it copies it first."""
        return self.references > 1


@dataclass(frozen=True, repr=False)
class TableReport:
    """The blocks of a table in the order of its tokens, all as of one moment.

    Attributes:
        block_size: tokens of a block.
        blocks: a BlockReport for each.

    Example:
        >>> pool.explain(child)
        37 tokens in 3 blocks of 16: 2 shared, 1 private
          column   block  tokens  held by
               0       0   16/16  2 tables, 1 cache
               1       3   16/16  2 tables
               2       5    5/16  this table
    """

    block_size: int
    blocks: tuple[BlockReport, ...]

    @property
    def num_tokens(self) -> int:
        """Of the sequence, those in holes included, as table.num_tokens."""
        return sum(self.block_size if block.is_hole else block.num_tokens for block in self.blocks)

    @property
    def num_shared(self) -> int:
        """Blocks that somebody else holds too."""
        return sum(block.is_shared for block in self.blocks)

    @property
    def num_holes(self) -> int:
        """Blocks that were given back."""
        return sum(block.is_hole for block in self.blocks)

    @property
    def num_offloaded(self) -> int:
        """Blocks that are not kept in memory, in all layers."""
        return sum(not block.is_resident for block in self.blocks)

    @property
    def num_open(self) -> int:
        """Blocks in full precision, in a pool with open_blocks."""
        return sum(block.is_open for block in self.blocks)

    def __repr__(self) -> str:
        columns = range(len(self.blocks))
        private = len(columns) - self.num_shared - self.num_holes
        counts = [
            f"{n} {name}" for n, name in [(self.num_shared, "shared"), (private, "private")] if n
        ]
        if self.num_holes:
            counts.append(counted(self.num_holes, "hole"))
        title = (
            f"{counted(self.num_tokens, 'token')} in {counted(len(columns), 'block')} "
            f"of {self.block_size}"
        )
        if self.num_offloaded:
            counts[-1] += f"; {self.num_offloaded} offloaded"
        if self.num_open:
            counts[-1] += f"; {self.num_open} open"
        if not columns:
            return title
        lines = [f"{title}: {', '.join(counts)}", "  column   block  tokens  held by"]
        if len(columns) <= _MOST_LINES:
            return "\n".join(lines + [self._line(column) for column in columns])
        first, last = columns[: _MOST_LINES - _LAST_LINES - 1], columns[-_LAST_LINES:]
        between = f"{'...':>8}   {len(columns) - len(first) - len(last)} more"
        lines += [self._line(column) for column in first]
        return "\n".join([*lines, between, *(self._line(column) for column in last)])

    def _repr_html_(self) -> str:
        from quire.display import table_report_html

        return table_report_html(self)

    def _line(self, column: int) -> str:
        block = self.blocks[column]
        if block.is_hole:
            return f"{column:>8}    hole"
        fill = f"{block.num_tokens}/{self.block_size}"
        holders = [
            counted(n, noun)
            for n, noun in [(block.tables, "table"), (block.caches, "cache"), (block.users, "user")]
            if n
        ]
        held_by = ", ".join(holders) if block.is_shared else "this table"
        more = f", filled to {block.filled_rows}" if block.filled_rows > block.num_tokens else ""
        more += "" if block.is_resident else ", offloaded"
        more += ", open" if block.is_open else ""
        return f"{column:>8}{block.id:>8}{fill:>8}  {held_by}{more}"
