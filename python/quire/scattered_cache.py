"""Sequences in scattered blocks of one pool, beside plain copies of what they should hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quire._core import BlockPool, BlockTable
from quire.plain_attention import plain_attention
from quire.trace import FLOATS, Trace

Array = npt.NDArray[Any]

GARBAGE = 1e4  # a value that shows wherever it does not belong


class CachedSequence:
    """A table that holds the first `num_tokens` tokens of a trace, rounded to the pool's dtype."""

    def __init__(self, pool: BlockPool, trace: Trace) -> None:
        self.table = BlockTable(pool)
        self.trace = trace
        self.num_tokens = 0
        # rounded by NumPy: what the table holds is compared with this bit for bit
        self.k, self.v = _rounded(trace.k, pool.dtype), _rounded(trace.v, pool.dtype)
        self._k64 = self.k.astype(np.float64).swapaxes(0, 1)
        self._v64 = self.v.astype(np.float64).swapaxes(0, 1)

    @property
    def first_step(self) -> int:
        """The position of the first query."""
        return len(self.trace.k) - len(self.trace.q)

    def append_until(self, num_tokens: int) -> None:
        """Write the tokens that the table lacks."""
        new = slice(self.num_tokens, num_tokens)
        self.table.append(self.trace.k[new], self.trace.v[new])
        self.num_tokens = num_tokens

    def attend(self, step: int, **options: Any) -> npt.NDArray[np.float64]:
        """What attention should give at this step, from the plain copies: [Hq, Dv]."""
        n = self.num_tokens
        return plain_attention(self.trace.q[step], self._k64[:, :n], self._v64[:, :n], **options)

    def holds_exactly(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether the table's first tokens have the right bits."""
        k, v = table.gather()
        return (
            len(k) >= num_tokens
            and k[:num_tokens].tobytes() == self.k[:num_tokens].tobytes()
            and v[:num_tokens].tobytes() == self.v[:num_tokens].tobytes()
        )


class ScatteredCache:
    """One sequence per trace; NaN wherever nothing was written; free blocks in random order."""

    def __init__(self, traces: Sequence[Trace], *, block_size: int, dtype: str, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        needed = sum(-(-len(trace.k) // block_size) for trace in traces)
        first = traces[0]
        self.pool = BlockPool(
            2 * needed + 16,  # as much again, for forks and for NaN between the blocks in use
            block_size=block_size,
            num_kv_heads=first.k.shape[1],
            head_dim=first.k.shape[2],
            v_head_dim=first.v.shape[2],
            dtype=dtype,
        )
        if self.pool.dtype not in FLOATS:  # their steps would be compared with unrounded tokens
            raise TypeError(f"verify: dtype: got {dtype}, expected float32, float16 or bfloat16")
        self.pool.k_cache()[...] = np.nan
        self.pool.v_cache()[...] = np.nan
        self.pool.release(self.random.permutation(self.pool.allocate(self.pool.num_blocks)))
        self.sequences = [CachedSequence(self.pool, trace) for trace in traces]
        # other owners of forked blocks: (whose tokens, table, how many of its tokens are right)
        self.relatives: list[tuple[CachedSequence, BlockTable, int]] = []
        for sequence in self.sequences:
            sequence.append_until(sequence.first_step)

    @property
    def tables(self) -> list[BlockTable]:
        """The tables to attend over, in the order of the traces."""
        return [sequence.table for sequence in self.sequences]

    def queries(self, step: int) -> npt.NDArray[np.float32]:
        """[batch, Hq, D] of this step."""
        return np.stack([sequence.trace.q[step] for sequence in self.sequences]).astype(np.float32)

    def append(self, step: int) -> None:
        """Write this step's token of each sequence."""
        for sequence in self.sequences:
            sequence.append_until(sequence.first_step + step + 1)

    def plain(self, step: int, **options: Any) -> npt.NDArray[np.float64]:
        """What attention should give at this step, from the plain copies: [batch, Hq, Dv]."""
        return np.stack([sequence.attend(step, **options) for sequence in self.sequences])

    def contents_exact(self) -> bool:
        """Whether every table, those of forks too, holds bit for bit what was written."""
        return all(
            len(sequence.table) == sequence.num_tokens
            and sequence.holds_exactly(sequence.table, sequence.num_tokens)
            for sequence in self.sequences
        ) and all(
            sequence.holds_exactly(table, num_tokens)
            for sequence, table, num_tokens in self.relatives
        )

    def fork(self) -> None:
        """Fork a table and carry on with either of the two; the other one lives until the next."""
        for _, table, _ in self.relatives:
            table.free()
        self.relatives.clear()
        sequence = self._any()
        relative = sequence.table.fork()
        if self.random.random() < 0.5:
            sequence.table, relative = relative, sequence.table
        self.relatives.append((sequence, relative, sequence.num_tokens))
        # Either the relative writes first and must get a copy of a shared block, or the sequence
        # does, in its next step, and the relative must keep what it had.
        if self.random.random() < 0.5:
            self._append_garbage(relative)

    def roll_back(self) -> None:
        """Write wrong tokens, forget them and some of the right ones, and write the right again."""
        sequence = self._any()
        end = sequence.num_tokens
        self._append_garbage(sequence.table)
        kept = max(0, end - int(self.random.integers(0, 3 * self.pool.block_size)))
        sequence.table.truncate(kept)
        sequence.num_tokens = kept
        sequence.append_until(end)

    def _any(self) -> CachedSequence:
        return self.sequences[int(self.random.integers(len(self.sequences)))]

    def _append_garbage(self, table: BlockTable) -> None:
        pool, rows = self.pool, int(self.random.integers(1, 5))
        k = np.full((rows, pool.num_kv_heads, pool.head_dim), GARBAGE, np.float32)
        v = np.full((rows, pool.num_kv_heads, pool.v_head_dim), GARBAGE, np.float32)
        table.append(k, v)


def _rounded(rows: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        rounded = rows.astype(dtype)
    if not np.isfinite(rounded).all():
        largest = float(np.max(np.abs(rows.astype(np.float32))))
        raise ValueError(f"verify: dtype: got {dtype}, expected one that can hold {largest:g}")
    return rounded
