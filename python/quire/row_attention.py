"""Attention of ragged batches under any mask, which one call of quire.paged_attention may not take.

What it does not take is put together from calls that it does. The adapters to other libraries'
interfaces stand on this; everything here is NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import quire
from quire.tensor_views import Array

Ints = npt.NDArray[np.int64]

# Entries of one table of masked rows: a long prompt under a mask takes some five arrays of 32 MiB
# at a time. Rows do not know of each other: where they are cut changes no bit.
_MOST_ENTRIES = 1 << 22


@dataclass(frozen=True)
class Batch:
    """Which keys each row of q sees.

    Row j of the n of a sequence of m keys stands at position m - n + j, which is negative for the
    first rows where n > m.
    """

    cu_seqlens_q: Ints  # [B + 1]: rows of q of each sequence
    tables: Ints  # [B, max_blocks]: the blocks of each sequence's keys
    kv_lens: Ints  # [B]
    causal: bool = False  # keys up to the row's own position
    window_left: int = -1  # keys before the row's own that it sees; -1: all
    masks: list[Array] | None = None  # bool [n, m] of each sequence, in place of causal
    # As window_left, after the row's own; causal hides later keys all the same.
    window_right: int = -1


@dataclass(frozen=True)
class Options:
    """How scores become a result: options of quire.paged_attention under their names there.

    Not alibi_slopes together with sinks: under masks a row may be given another position than its
    own, which adds one number to all of its scores. The log-sum-exp is put right here, a sink would
    notice: callers refuse both.
    """

    scale: float
    softcap: float | None = None
    alibi_slopes: Array | None = None
    sinks: Array | None = None
    k_scale: Any = None  # of quantised caches: a number, [Hkv], or [B, Hkv], B those of the batch
    v_scale: Any = None
    k_tail: Array | None = None  # only where batches have no masks

    def of_sequences(self, sequences: Any) -> Options:
        """Those of some sequences of the batch, in whatever order: an index of B."""

        def chosen(scale: Any) -> Any:
            return scale[sequences] if np.ndim(scale) == 2 else scale

        return replace(self, k_scale=chosen(self.k_scale), v_scale=chosen(self.v_scale))


@dataclass(frozen=True)
class _Call:
    """Rows of q whose sequences one call of quire.paged_attention takes."""

    rows: Ints | slice
    tables: Ints
    kv_lens: Ints
    cu_seqlens_q: Ints
    causal: bool = False
    sliding_window: tuple[int, int] | None = None
    tree_mask: npt.NDArray[np.bool_] | None = None
    key_positions: Ints | None = None
    shift: Ints | None = None  # [rows]: the position that the call gives a row, less its own
    sequence: int | None = (
        None  # of the batch, that all of its own are of; None: those of the batch
    )


def attend_batch(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    batch: Batch,
    options: Options,
    out: Array,
    *,
    layout: str = "NHD",
) -> Array:
    """Writes attention into out [T, Hq, Dv], and returns natural log-sum-exps, float32 [T, Hq].

    A row that sees no key is 0, its log-sum-exp -inf. Cost: one call that copies nothing, also
    where masks say something of the last n keys alone, n the number of a sequence's queries. Under
    others each row is a sequence of its own, whose keys are listed one by one: as many integers as
    the masks have ones, and keys read again for every row.

    Raises what quire.paged_attention does, where there are keys; nothing has been written then.
    """
    if not batch.kv_lens.any():
        out[...] = 0
        return np.full(out.shape[:2], -np.inf, np.float32)
    trees = None if batch.masks is None else _as_trees(batch.masks)
    if batch.masks is None or trees is not None:
        windowed = batch.window_left >= 0 or batch.window_right >= 0
        whole = _Call(
            slice(None),
            batch.tables,
            batch.kv_lens,
            batch.cu_seqlens_q,
            batch.causal,
            (batch.window_left, batch.window_right) if windowed else None,
            trees,
        )
        return _run(whole, q, k_cache, v_cache, options, layout, out)
    block_size = k_cache.shape[1 if layout == "NHD" else 2]
    k_cache, v_cache, slots_per_block = _slots(k_cache, v_cache, layout)
    calls, layout = _masked_rows(batch, batch.masks, block_size, slots_per_block), "NHD"
    result = np.zeros(out.shape, out.dtype)
    lse = np.full(out.shape[:2], -np.inf, np.float32)
    for call in calls:
        rows = np.empty((len(q[call.rows]), *out.shape[1:]), out.dtype)
        lse[call.rows] = _run(call, q, k_cache, v_cache, options, layout, rows)
        result[call.rows] = rows
    out[...] = result
    return lse


def _run(
    call: _Call,
    q: Array,
    k_cache: Array,
    v_cache: Array,
    options: Options,
    layout: Any,
    out: Array,
) -> Array:
    """Writes the rows of one call into out, and returns their log-sum-exps."""
    if call.sequence is not None:
        options = options.of_sequences(np.full(len(call.kv_lens), call.sequence))
    _, lse = quire.paged_attention(
        q[call.rows],
        k_cache,
        v_cache,
        call.tables,
        call.kv_lens,
        cu_seqlens_q=call.cu_seqlens_q,
        causal=call.causal,
        sliding_window=call.sliding_window,
        tree_mask=call.tree_mask,
        key_positions=call.key_positions,
        layout=layout,
        out=out,
        return_lse=True,
        **vars(options),
    )
    if call.shift is not None and options.alibi_slopes is not None:
        lse = lse + call.shift[:, None] * options.alibi_slopes
    return np.asarray(lse)


def _as_trees(masks: list[Array]) -> npt.NDArray[np.bool_] | None:
    """One tree_mask, if all rows see the keys before a sequence's last n; else None."""
    for rows, keys in (mask.shape for mask in masks):
        if rows > keys:
            return None
    if not all(mask[:, : mask.shape[1] - mask.shape[0]].all() for mask in masks):
        return None
    return np.concatenate(
        [mask[:, mask.shape[1] - mask.shape[0] :].ravel() for mask in masks] or [np.zeros(0, bool)]
    )


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers from each start on, as many as its length."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _masked_rows(
    batch: Batch, masks: list[Array], block_size: int, slots_per_block: int
) -> Iterator[_Call]:
    """Each row as a sequence of the slots that it sees."""
    for sequence, mask in enumerate(masks):
        rows, keys = mask.shape
        first = batch.cu_seqlens_q[sequence]
        position, row_position = np.arange(keys), np.arange(keys - rows, keys)
        if batch.window_left >= 0:
            mask = mask & (position >= row_position[:, None] - batch.window_left)
        if batch.window_right >= 0:
            mask = mask & (position <= row_position[:, None] + batch.window_right)
        block, offset = np.divmod(position, block_size)
        slot = batch.tables[sequence, block] * slots_per_block + offset
        num_seen = mask.sum(axis=1)
        seeing = np.flatnonzero(num_seen)  # the others are 0 and -inf
        some = max(1, _MOST_ENTRIES // max(keys, 1))
        for begin in range(0, len(seeing), some):
            chosen = seeing[begin : begin + some]
            lengths = num_seen[chosen]
            row, key = np.nonzero(mask[chosen])
            column = _ranges(np.zeros_like(lengths), lengths)
            tables = np.zeros((len(chosen), lengths.max()), np.int64)
            positions = np.zeros_like(tables)
            tables[row, column], positions[row, column] = slot[key], key
            yield _Call(
                first + chosen,
                tables,
                lengths,
                np.arange(len(chosen) + 1),
                key_positions=positions,
                shift=positions[np.arange(len(chosen)), lengths - 1] - row_position[chosen],
                sequence=sequence,
            )


def _slots(k_cache: Array, v_cache: Array, layout: str) -> tuple[Array, Array, int]:
    """The caches as [slots, 1, Hkv, D], and how many slots further a block begins.

    Views, unless strides do not let slots be numbered in one row, alike in both: then copies.
    """
    caches = [cache if layout == "NHD" else cache.swapaxes(1, 2) for cache in (k_cache, v_cache)]
    steps = [_slots_per_block(cache) for cache in caches]
    if steps[0] is None or steps[0] != steps[1]:
        caches = [np.ascontiguousarray(cache) for cache in caches]
        steps = [cache.shape[1] for cache in caches]
    views = [_slot_view(cache, step) for cache, step in zip(caches, steps, strict=True)]
    return views[0], views[1], int(steps[0] or 0)


def _slots_per_block(cache: Array) -> int | None:
    """How many steps from slot to slot lead from block to block, if whole and forward."""
    num_blocks, block_size = cache.shape[:2]
    block, slot = cache.strides[:2]
    if num_blocks <= 1:
        return int(block_size)
    if block_size == 1:
        return 1
    return block // slot if slot > 0 and block >= 0 and block % slot == 0 else None


def _slot_view(cache: Array, slots_per_block: int | None) -> Array:
    """[slots, 1, Hkv, D] over the same memory; the last slot is the last of the cache."""
    num_blocks, block_size, heads, size = cache.shape
    step = slots_per_block or 0
    num_slots = (num_blocks - 1) * step + block_size if num_blocks else 0
    stride = cache.strides[0] if block_size == 1 and num_blocks > 1 else cache.strides[1]
    numbers = cache.view(f"u{cache.dtype.itemsize}")  # NumPy does not know all floats of 8 bits
    slots = np.lib.stride_tricks.as_strided(
        numbers, (num_slots, 1, heads, size), (stride, stride, *cache.strides[2:]), writeable=False
    )
    return slots.view(cache.dtype)
