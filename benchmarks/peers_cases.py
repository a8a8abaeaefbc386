"""What every implementation in peers.py is given: the same numbers, in the layout it likes best.

One sequence, (32, 8) heads, head size 128, causal. A decode case lies in memory as many times over,
so that a run reads what has not been read for longest; NumPy allocates it for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 16
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Each implementation's copies of a decode case. The implementations take turns, so that the bytes
# read between two uses of a copy are as many times more as there are implementations.
COLD_BYTES = 1 << 29

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """The last `queries` tokens of a sequence of `keys` attend to it."""

    queries: int
    keys: int

    @property
    def decode(self) -> bool:
        """One token: bound by memory, so timed with keys and values that are in no cache."""
        return self.queries == 1

    @property
    def name(self) -> str:
        """As printed."""
        return f"{'decode' if self.decode else 'prefill'} {self.keys}"

    @property
    def copies(self) -> int:
        """How many times the keys and values lie in memory."""
        num_bytes = 2 * self.keys * KV_HEADS * HEAD_DIM * BFLOAT16.itemsize
        return max(2, COLD_BYTES // num_bytes) if self.decode else 1

    @property
    def target(self) -> float:
        """How many times as fast as the best peer Quire means to be."""
        return 2.0 if self.decode else 1.3


class Inputs:
    """The numbers of a case, all of them exact in bfloat16.

    q [queries, HEADS, HEAD_DIM]; k and v [keys, KV_HEADS, HEAD_DIM]. The scores' deviation is 2, so
    that some keys matter more than others, as in a model.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self._random = np.random.default_rng(0)
        self.q = self._normal(case.queries, HEADS) * BFLOAT16.type(2)
        self.k = self._normal(case.keys, KV_HEADS)
        self.v = self._normal(case.keys, KV_HEADS)

    def _normal(self, tokens: int, heads: int) -> Array:
        return self._random.standard_normal((tokens, heads, HEAD_DIM), np.float32).astype(BFLOAT16)

    def shuffled_tables(self, block_size: int = BLOCK_SIZE) -> npt.NDArray[np.int32]:
        """Tables [copies, blocks] that deal all blocks in random order."""
        blocks = self.case.keys // block_size
        order = self._random.permutation(self.case.copies * blocks).astype(np.int32)
        return order.reshape(self.case.copies, blocks)

    def heads_first(self, rows: Array, dtype: npt.DTypeLike) -> Array:
        """Each copy of k or v contiguous: [copies, KV_HEADS, keys, HEAD_DIM]."""
        out = np.empty((self.case.copies, KV_HEADS, len(rows), HEAD_DIM), dtype)
        out[:] = rows.astype(dtype).swapaxes(0, 1)
        return out


class Implementation(Protocol):
    """One way to compute a case, made from its Inputs."""

    @property
    def note(self) -> str:
        """What to know when reading its time: dtypes, the form that was chosen."""

    def use_threads(self, threads: int) -> None:
        """The next runs use so many threads."""

    def run(self, copy: int) -> Any:
        """Attention over one copy: the call that is timed."""

    def rows(self, result: Any) -> npt.NDArray[np.float32]:
        """What run returned, as [queries, HEADS, HEAD_DIM]."""
