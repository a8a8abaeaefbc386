"""The block tables of a batch, and the pass of a model through its layers that makes them grow.

Hugging Face pads the shorter prompts of a batch to one length. A table holds the tokens of its row
alone: padding is in the columns of the batch, and nowhere in the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import quire

Bools = npt.NDArray[np.bool_]


@dataclass
class LayerGroup:
    """Layers that see the same tokens: one pool for all of them, and a table for each row."""

    pool: quire.BlockPool
    window: int | None  # tokens that a query sees, its own included; None: all
    prefixes: quire.PrefixCache | None
    tables: list[quire.BlockTable] = field(default_factory=list)
    step: quire.Step | None = None

    def take_back(self) -> None:
        """The tables as they were before the step, if there is one."""
        if self.step is not None:
            self.step.take_back()
            self.step = None

    def free(self) -> None:
        """Give back all blocks."""
        self.step = None
        for table in self.tables:
            table.free()
        self.tables = []

    def take_rows(self, rows: Sequence[int]) -> None:
        """Row i is then what row rows[i] was; a row taken twice is forked, one not taken freed."""
        left = {row: self.tables[row] for row in rows}
        taken = [left.pop(row) if row in left else self.tables[row].fork() for row in rows]
        for row in set(range(len(self.tables))) - set(rows):
            self.tables[row].free()
        self.tables = taken

    def match(self, prompts: list[list[int]], namespace: str) -> None:
        """A table for each prompt, of what the prefix cache holds of it."""
        if self.prefixes is not None:
            for prompt in prompts:
                self.tables.append(self.prefixes.match(prompt, namespace=namespace))

    def insert(self, row: int, tokens: list[int], namespace: str) -> None:
        """Make the first tokens of a row matchable."""
        if self.prefixes is not None:
            self.prefixes.insert(tokens, self.tables[row], namespace=namespace)

    def drop_hidden(self) -> None:
        """Give back the blocks that the next token of a table cannot see any more."""
        if self.window is not None and self.prefixes is None:
            for table in self.tables:
                table.drop_before(table.next_position + 1 - self.window)

    def check_crop(self, row: int, left: int) -> None:
        """Refuse a crop after which the next token would see blocks that are gone."""
        if self.window is None or self.prefixes is not None or left == 0:
            return
        table = self.tables[row]
        seen = table.blocks[max(0, left + 1 - self.window) // self.pool.block_size :]
        if np.any(seen[: -(-left // self.pool.block_size)] == -1):
            raise ValueError(
                f"crop: tokens_to_remove: got {len(table) - left} tokens of row {row}, expected at "
                f"most those since blocks of the window of {self.window} were given back"
            )


class BatchTables:
    """What all layers of a cache have in common."""

    def __init__(self, groups: Sequence[LayerGroup], num_layers: int, has_states: bool) -> None:
        """num_layers: those with keys and values. has_states: others keep a state of their own."""
        self.groups = groups
        self.num_layers = num_layers
        self.has_states = has_states
        self.recording = False  # hidden blocks stay until the next crop
        self.unread: int | None = None  # the layer whose keys attention has not been given yet
        self._failed = False
        self._forget()

    def _forget(self) -> None:
        self.columns = 0  # tokens of each row, padding included
        self.rows: int | None = None
        self.reordered = False
        self._padding: Bools | None = None  # [rows, columns], True where there is a token
        self._prompts: list[list[int]] = []
        self._namespace = ""
        self._prompt_columns = 0
        self._next_layer = 0
        self._new: Bools | None = None  # [rows, n] of the pass, where some are padding

    def reset(self) -> None:
        """Give back all blocks; the next pass begins new sequences."""
        for group in self.groups:
            group.free()
        self.recording = False
        self.unread = None
        self._failed = False
        self._forget()

    # A batch that begins with what the prefix caches hold.

    def start(self, prompts: list[list[int]], padding: Bools, namespace: str) -> list[int]:
        """New sequences of these prompts, left padded; returns the tokens found of each."""
        self.reset()
        padded = padding.shape[1] - padding.sum(axis=1)
        try:
            for group in self.groups:
                group.match(prompts, namespace)
        except BaseException:
            self.reset()
            raise
        found = [
            min(len(group.tables[row]) for group in self.groups) for row in range(len(prompts))
        ]
        # All rows go on from one column, as a pass has as many new ones for each.
        self.columns = int(min(pad + n for pad, n in zip(padded, found, strict=True)))
        found = [max(0, self.columns - int(pad)) for pad in padded]
        for group in self.groups:
            for table, n in zip(group.tables, found, strict=True):
                table.truncate(n)
        self.rows = len(prompts)
        self._keep_padding(padding[:, : self.columns])
        self._prompts, self._namespace = prompts, namespace
        self._prompt_columns = padding.shape[1]
        return found

    def _keep_padding(self, padding: Bools) -> None:
        self._padding = None if padding.all() else padding

    def remember(self, token_ids: npt.NDArray[np.int64]) -> None:
        """Put what the tables hold, of rows of at least so many columns, into the prefix caches."""
        self._settle()
        for row, ids in enumerate(token_ids[:, : self.columns]):
            tokens = ids if self._padding is None else ids[self._padding[row]]
            self._insert(row, tokens.tolist())

    def _insert(self, row: int, tokens: list[int]) -> None:
        for group in self.groups:
            group.insert(row, tokens, self._namespace)

    # A pass: attention of each layer in turn.

    def attend(
        self,
        group: LayerGroup,
        layer: int,
        order: int,
        states: tuple[Any, Any, Any],
        mask: Any,
        **options: Any,
    ) -> Any:
        """Write keys and values of a layer, attend, and return [B, n, Hq, Dv].

        layer: of the group's pool. order: among all layers with keys. states: queries
        [B, Hq, n, D], keys and values [B, Hkv, n, D]. mask: bool [B, columns + n], or None where no
        token is padding. options: those of quire.attend.
        """
        batch, _, n, _ = states[0].shape
        try:
            if order == 0:
                self._begin(batch, n, mask)
            if order != self._next_layer or group.step is None:
                raise RuntimeError(
                    f"quire attention: layer: got number {order} of those with keys, expected "
                    f"{self._next_layer}: each of the {self.num_layers} comes once in a pass"
                )
            tokens = None if self._new is None else torch.from_numpy(self._new.reshape(-1))
            q, k, v = (token_rows(state, tokens) for state in states)
            out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
            group.step.attend(q, k, v, layer=layer, out=out, **options)
        except BaseException:
            self._give_up()
            raise
        self._next_layer = order + 1
        if self._next_layer == self.num_layers:
            self._finish(batch, n)
        return padded_rows(out, tokens).view(batch, n, *out.shape[1:])

    def _begin(self, batch: int, n: int, mask: Any) -> None:
        """Room for the new tokens of all rows in all pools, or none in any."""
        self._settle()
        if self._failed and self.has_states:
            raise RuntimeError(
                "quire attention: cache: got one whose last pass failed after its linear-attention "
                "layers had gone on, expected one that was reset"
            )
        self._failed = False
        visible = None if mask is None else mask.numpy()
        self._check_mask(batch, n, visible)
        self._take_batch(batch)
        new = None if visible is None else visible[:, self.columns :]
        self._new = None if new is None or new.all() else new
        counts = [n] * batch if new is None else new.sum(axis=1).tolist()
        for group in self.groups:
            if not self.recording:
                group.drop_hidden()
            group.step = quire.Step(group.tables, counts)
        self._next_layer = 0

    def _repeats(self, batch: int) -> int:
        """How often generate has repeated each row since start: 1 but for beams and the like."""
        if self.rows is None or batch == self.rows:
            return 1
        if not self._prompts or batch % self.rows != 0:
            raise ValueError(
                f"quire attention: batch: got {batch} rows, expected {self.rows}, as before"
            )
        return batch // self.rows

    def _check_mask(self, batch: int, n: int, visible: Bools | None) -> None:
        shape = (batch, self.columns + n)
        repeats = self._repeats(batch)
        if self._prompts and shape[1] > self._prompt_columns:
            raise ValueError(
                f"quire attention: tokens: got {shape[1]}, expected at most "
                f"{self._prompt_columns}, those of the prompts that start was given"
            )
        if visible is None:
            known = self._padding is None
        elif visible.shape != shape:
            raise ValueError(
                f"quire attention: attention_mask: got {list(visible.shape)}, expected "
                f"{list(shape)}: the tokens of the cache and {n} new ones"
            )
        elif self._padding is None:
            known = bool(visible[:, : self.columns].all())
        else:
            padding = np.repeat(self._padding, repeats, axis=0)
            known = np.array_equal(visible[:, : self.columns], padding)
        if not known:
            raise ValueError(
                "quire attention: attention_mask: got another padding of tokens in the cache, "
                "expected that of the passes before"
            )
        windows = any(group.window is not None for group in self.groups)
        if windows and visible is not None and not left_padded(visible):
            raise ValueError(
                "quire attention: attention_mask: got padding after a token, expected it before "
                "all of them in a model with sliding windows"
            )

    def _take_batch(self, batch: int) -> None:
        """The first pass says how many rows there are: those of start, or each so many times."""
        if self.rows is None:
            if any(group.prefixes is not None for group in self.groups):
                raise RuntimeError(
                    "quire attention: cache: got no prompts, expected start(input_ids) before a "
                    "pass, as it has a prefix cache"
                )
            for group in self.groups:
                group.tables = [quire.BlockTable(group.pool) for _ in range(batch)]
            self.rows = batch
        elif batch != self.rows:
            repeats = self._repeats(batch)
            self.select([row // repeats for row in range(batch)])

    def _settle(self) -> None:
        """Take back a pass that ended early where attention does not see it: in a layer's rest."""
        if any(group.step is not None for group in self.groups):
            self._give_up()

    def _give_up(self) -> None:
        """Take back the pass: every table has the length that it had before."""
        for group in self.groups:
            group.take_back()
        self._failed = True
        self._new = None
        if self.columns == 0 and not self._prompts:
            for group in self.groups:
                group.free()
            self.rows = None

    def _finish(self, rows: int, n: int) -> None:
        if self._padding is not None or self._new is not None:
            before = np.ones((rows, self.columns), bool) if self._padding is None else self._padding
            new = np.ones((rows, n), bool) if self._new is None else self._new
            self._keep_padding(np.concatenate([before, new], axis=1))
        self.columns += n
        self._new = None
        for group in self.groups:
            group.step = None
        if self._prompts and self.columns >= self._prompt_columns:
            repeats = rows // len(self._prompts)
            for i, prompt in enumerate(self._prompts):
                self._insert(i * repeats, prompt)
            self._prompts = []

    # Between passes.

    def select(self, rows: Sequence[int]) -> None:
        """Row i is then what row rows[i] was."""
        self._settle()
        if self.rows is None:
            return
        outside = [row for row in rows if not 0 <= row < self.rows]
        if outside:
            raise IndexError(f"quire cache: rows: got {outside[0]}, expected 0 to {self.rows - 1}")
        if list(rows) == list(range(self.rows)):
            return
        for group in self.groups:
            group.take_rows(rows)
        if self._padding is not None:
            self._keep_padding(self._padding[list(rows)])
        self.rows = len(rows)

    def crop(self, count: int) -> None:
        """Forget the last columns of all rows."""
        self._settle()
        if count > self.columns:
            raise ValueError(
                f"crop: tokens_to_remove: got {-count}, expected at least {-self.columns}, as many "
                "as there are"
            )
        left = self.columns - count
        for group in self.groups:
            for row, table in enumerate(group.tables):
                group.check_crop(row, self._tokens(row, table, left))
        for group in self.groups:
            for row, table in enumerate(group.tables):
                table.truncate(self._tokens(row, table, left))
            if self.recording:
                group.drop_hidden()
        if self._padding is not None:
            self._keep_padding(self._padding[:, :left])
        self.columns = left

    def _tokens(self, row: int, table: quire.BlockTable, columns: int) -> int:
        """Tokens of a row within its first columns."""
        if self._padding is None:
            return columns
        return len(table) - int(self._padding[row, columns:].sum())


def left_padded(visible: Bools) -> bool:
    """Whether in each row no padding comes after a token."""
    return bool(np.all(visible[:, :-1] <= visible[:, 1:]))


def token_rows(states: Any, tokens: Any) -> Any:
    """[B, H, n, D] as rows [T, H, D], those of padding left out; tokens: bool [B * n], or None."""
    batch, heads, n, size = states.shape
    rows = states.detach().transpose(1, 2).reshape(batch * n, heads, size)
    return rows if tokens is None else rows[tokens]


def padded_rows(rows: Any, tokens: Any) -> Any:
    """The inverse of token_rows: rows of padding are 0."""
    if tokens is None:
        return rows
    out = rows.new_zeros(len(tokens), *rows.shape[1:])
    out[tokens] = rows
    return out
