"""Pools with open blocks, rows for them, and what their tables must hold: in NumPy, from the
history of a table alone.

Every token has the float32 numbers that it stands for by now; a column is open or sealed. Formats
are those of int4_cases.
"""

from __future__ import annotations

import copy
from typing import Any

import ml_dtypes
import numpy as np
from int4_cases import grid_between
from quantised_cases import LARGEST, QUANTISED

import quire


def new_pool(num_blocks: int = 40, **sizes: Any) -> quire.BlockPool:
    given: dict[str, Any] = {
        "block_size": 4, "num_kv_heads": 2, "head_dim": 8, "v_head_dim": 6, "num_layers": 2,
        "dtype": "int4",
    }  # fmt: skip
    return quire.BlockPool(num_blocks, **(given | sizes))


def rows_of(pool: quire.BlockPool, tokens: int, random: np.random.Generator) -> tuple[Any, Any]:
    """[num_layers, tokens, Hkv, D], with channels of very different size."""
    shape = (pool.num_layers, tokens, pool.num_kv_heads)
    channels = np.float32(10) ** random.integers(-2, 3, pool.head_dim).astype(np.float32)
    k = random.standard_normal((*shape, pool.head_dim), dtype=np.float32) * channels
    return k, random.standard_normal((*shape, pool.v_head_dim), dtype=np.float32)


def rounded(numbers: Any) -> Any:
    return np.asarray(numbers, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def on_grid(numbers: Any, axis: int) -> Any:
    """What numbers become that share grids along an axis."""
    clipped = np.clip(numbers, -65504, 65504)
    grids = grid_between(clipped.min(axis=axis), clipped.max(axis=axis)).astype(np.float32)
    step, middle = (np.expand_dims(part, axis) for part in np.moveaxis(grids, -1, 0))
    n = np.clip(np.rint((clipped - middle) / step), -8, 7)
    return (middle + n * step).astype(np.float32)


def scaled(numbers: Any, dtype: str) -> Any:
    """What rows become that have a scale of their own."""
    most = np.float32(LARGEST[dtype])
    scale = np.maximum(np.abs(numbers).max(axis=-1, keepdims=True) / most, np.float32(2**-126))
    quotients = np.clip(numbers / scale, -most, most)
    n = np.rint(quotients) if dtype == "int8" else quotients.astype(QUANTISED[dtype])
    return n.astype(np.float32) * scale


class OpenBlocksModel:
    """k [num_layers, tokens, Hkv, D] and v alike, as gather must give them.

    What it was before each append or extend is kept in whole: tokens that are taken back are taken
    back by going there, and adding the fewer anew.
    """

    def __init__(self, pool: Any) -> None:
        self.block_size = pool.block_size
        self.dtype, self.stays_open = pool.dtype.name, pool.open_blocks
        shape = (pool.num_layers, 0, pool.num_kv_heads)
        self.k = np.zeros((*shape, pool.head_dim), np.float32)
        self.v = np.zeros((*shape, pool.v_head_dim), np.float32)
        self.written = self.k, self.v  # the same in blocks that are open
        self.open: set[int] = set()
        self.horizon = 0  # the least length that it can return to
        self.past: list[tuple[Any, Any, Any, bool]] = []  # state, k, v, whether extend added them

    def __len__(self) -> int:
        return self.k.shape[1]

    @property
    def columns(self) -> int:
        return -(-len(self) // self.block_size)

    def fork(self) -> OpenBlocksModel:
        return copy.deepcopy(self)

    def append(self, k: Any, v: Any) -> None:
        self._grow(k, v, False)

    def extend(self, k: Any, v: Any) -> None:
        self._grow(k, v, True)

    def truncate(self, tokens: int) -> None:
        if tokens < len(self):
            self._return_to(max(tokens, self.horizon))
            self._cut(tokens)
            self.horizon = min(self.horizon, tokens)

    def keep(self, indices: Any) -> None:
        if len(indices) == len(self):
            return
        moved = np.flatnonzero(np.asarray(indices) != np.arange(len(indices)))
        if not len(moved):
            self.truncate(len(indices))
        else:
            if moved[0] >= self.horizon:
                self._reopen()
            self.k, self.v = self.k[:, indices].copy(), self.v[:, indices].copy()
            self.written = self.k.copy(), self.v.copy()
            self.open = {column for column in self.open if column < self.columns}
            for column in range(moved[0] // self.block_size, self.columns):
                self._open(column)
        self._seal_before(self.columns - self.stays_open)
        self.horizon, self.past = len(self), []

    def _grow(self, k: Any, v: Any, extends: bool) -> None:
        if not k.shape[1]:
            return
        self.past.append((self._state(), k, v, extends))
        if extends:
            self._seal_before(self.columns - self.stays_open)
        self._add(k, v)
        if not extends:
            self._seal_before(self.columns - self.stays_open)
        self.horizon = max(self.horizon, len(self) - 64)
        while len(self.past) > 1 and self.past[1][0][0].shape[1] <= self.horizon:
            self.past.pop(0)

    def _state(self) -> Any:
        return self.k.copy(), self.v.copy(), tuple(x.copy() for x in self.written), set(self.open)

    def _return_to(self, tokens: int) -> None:
        if tokens == len(self):
            return
        horizon = self.horizon
        while True:
            state, k, v, extends = self.past.pop()
            self.k, self.v, self.written, self.open = state
            if len(self) <= tokens:
                break
        more = tokens - len(self)
        self._grow(k[:, :more], v[:, :more], extends)
        self.horizon = horizon

    def _cut(self, tokens: int) -> None:
        self.k, self.v = self.k[:, :tokens].copy(), self.v[:, :tokens].copy()
        self.written = self.written[0][:, :tokens].copy(), self.written[1][:, :tokens].copy()
        self.open = {column for column in self.open if column < self.columns}
        self.past = [entry for entry in self.past if entry[0][0].shape[1] < tokens]

    def _reopen(self) -> None:
        """What was open at the horizon, or has been written since, as it was written."""
        then = self.fork()
        then._return_to(self.horizon)
        for column in range(self.columns):
            if column in then.open or min(len(self), (column + 1) * self.block_size) > self.horizon:
                rows = self._rows(column)
                self.k[:, rows], self.v[:, rows] = (x[:, rows] for x in self.written)
                self.open.add(column)

    def _add(self, k: Any, v: Any) -> None:
        old = self.columns
        if len(self) % self.block_size:
            self._open(old - 1)
        k, v = rounded(k), rounded(v)
        self.k = np.concatenate([self.k, k], axis=1)
        self.v = np.concatenate([self.v, v], axis=1)
        self.written = tuple(
            np.concatenate(both, axis=1) for both in zip(self.written, (k, v), strict=True)
        )
        self.open |= set(range(old, self.columns))

    def _rows(self, column: int) -> slice:
        return slice(column * self.block_size, (column + 1) * self.block_size)

    def _open(self, column: int) -> None:
        rows = self._rows(column)
        self.k[:, rows], self.v[:, rows] = rounded(self.k[:, rows]), rounded(self.v[:, rows])
        for written, numbers in zip(self.written, (self.k, self.v), strict=True):
            written[:, rows] = numbers[:, rows]
        self.open.add(column)

    def _seal_before(self, end: int) -> None:
        for column in sorted(self.open):
            if column < end:
                rows = self._rows(column)
                if self.dtype == "int4":
                    self.k[:, rows] = on_grid(self.k[:, rows], 1)  # a channel, over the block
                    self.v[:, rows] = on_grid(self.v[:, rows], 3)  # a token
                else:
                    self.k[:, rows] = scaled(self.k[:, rows], self.dtype)
                    self.v[:, rows] = scaled(self.v[:, rows], self.dtype)
                self.open.remove(column)
