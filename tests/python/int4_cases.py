"""What the tests of int4 caches share: the format as it is documented, in NumPy, and batches of
sequences over sealed and open blocks with poison wherever no query looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from dense_oracle import attention

import quire

IMPLEMENTATIONS = ("fused", "gather", "dense")
FLOATS = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
LARGEST = 65504.0  # of float16


def grid_between(lowest: Any, highest: Any) -> Any:
    """float16 [..., 2], step and middle, in float32 arithmetic as documented."""
    lowest, highest = np.float32(lowest), np.float32(highest)
    step = np.maximum((highest - lowest) / np.float32(15), np.float32(2**-24)).astype(np.float16)
    middle = lowest + np.float32(8) * step.astype(np.float32)
    return np.stack([step, np.clip(middle, -LARGEST, LARGEST).astype(np.float16)], axis=-1)


def to_codes(rows: Any, grids: Any) -> Any:
    """uint8 [..., D / 2] of float32 rows [..., D] on grids that broadcast to [..., D, 2]."""
    step, middle = np.moveaxis(grids.astype(np.float32), -1, 0)
    u = np.clip(np.rint((np.asarray(rows, np.float32) - middle) / step), -8, 7).astype(np.int8) + 8
    return (u[..., 0::2] | u[..., 1::2] << 4).astype(np.uint8)


def to_reals(codes: Any, grids: Any) -> Any:
    """float64 [..., D] of codes [..., D / 2]."""
    halves = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)
    step, middle = np.moveaxis(grids.astype(np.float64), -1, 0)
    return middle + (halves.astype(np.float64) - 8) * step


def seal_keys(keys: Any) -> tuple[Any, Any]:
    """Codes and grids [Hkv, D, 2] of the keys [block_size, Hkv, D] of a block."""
    keys = np.asarray(keys, np.float32)
    grids = grid_between(keys.min(axis=0), keys.max(axis=0))
    return to_codes(keys, grids), grids


def seal_values(values: Any) -> tuple[Any, Any]:
    """Codes and grids [..., 2] of values [..., Dv]."""
    values = np.asarray(values, np.float32)
    grids = grid_between(values.min(axis=-1), values.max(axis=-1))
    return to_codes(values, grids[..., None, :]), grids


def as_layout(cache: Any, layout: str) -> Any:
    return np.ascontiguousarray(cache.swapaxes(1, 2)) if layout == "HND" else cache


@dataclass
class Shape:
    num_blocks: int = 6
    num_open: int = 3
    block_size: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    v_head_dim: int = 6

    def key_grids(self) -> tuple[int, ...]:
        return self.num_blocks, self.kv_heads, self.head_dim, 2

    def value_grids(self) -> tuple[int, ...]:
        return self.num_blocks, self.block_size, self.kv_heads, 2

    def codes(self, size: int) -> tuple[int, ...]:
        return self.num_blocks, self.block_size, self.kv_heads, size // 2

    def open(self, size: int) -> tuple[int, ...]:
        return self.num_open, self.block_size, self.kv_heads, size


@dataclass
class Caches:
    """All that is stored, in layout NHD."""

    shape: Shape
    k_cache: Any
    v_cache: Any
    k_scale: Any
    v_scale: Any
    k_open: Any
    v_open: Any

    def arrays(self) -> dict[str, Any]:
        names = ("k_cache", "v_cache", "k_scale", "v_scale", "k_open", "v_open")
        return {name: getattr(self, name) for name in names}

    def given(self, layout: str) -> dict[str, Any]:
        """As arguments: copies where the layout is another."""
        return {
            name: as_layout(array, layout) if not name.endswith("scale") else array
            for name, array in self.arrays().items()
        } | {"layout": layout}


def empty_caches(shape: Shape, k_open: str = "float32", v_open: str = "float32") -> Caches:
    """Nothing but poison: codes have none, so they are 0xa5."""
    return Caches(
        shape,
        np.full(shape.codes(shape.head_dim), 0xA5, np.uint8),
        np.full(shape.codes(shape.v_head_dim), 0xA5, np.uint8),
        np.full(shape.key_grids(), np.nan, np.float16),
        np.full(shape.value_grids(), np.nan, np.float16),
        np.full(shape.open(shape.head_dim), np.nan, FLOATS[k_open]),
        np.full(shape.open(shape.v_head_dim), np.nan, FLOATS[v_open]),
    )


def write(caches: Caches, k: Any, v: Any, slots: Any) -> None:
    """What write_kv is documented to do."""
    shape = caches.shape
    last = {int(slot): row for row, slot in enumerate(slots) if slot >= 0}
    blocks: dict[int, list[int]] = {}
    for slot, row in sorted(last.items()):
        block, offset = divmod(slot, shape.block_size)
        if block < shape.num_blocks:
            blocks.setdefault(block, []).append(row)
        else:
            place = block - shape.num_blocks, offset
            caches.k_open[place] = k[row].astype(caches.k_open.dtype)
            caches.v_open[place] = v[row].astype(caches.v_open.dtype)
    for block, rows in blocks.items():
        assert len(rows) == shape.block_size
        caches.k_cache[block], caches.k_scale[block] = seal_keys(k[rows])
        caches.v_cache[block], caches.v_scale[block] = seal_values(v[rows])


@dataclass
class Batch:
    """Sequences of which each has keys and values of its own, block by block sealed or open."""

    shape: Shape
    caches: Caches
    tables: Any
    lengths: list[int]
    q_lens: list[int]
    q: Any
    options: dict[str, Any]
    reals: list[tuple[Any, Any]] = field(default_factory=list)  # (k, v) of each sequence

    def cu_seqlens_q(self) -> Any:
        return np.cumsum([0, *self.q_lens])

    def call(self, layout: str = "NHD", **options: Any) -> Any:
        given = self.caches.given(layout)
        return quire.paged_attention(
            self.q, given.pop("k_cache"), given.pop("v_cache"), self.tables,
            np.array(self.lengths), cu_seqlens_q=self.cu_seqlens_q(), **given,
            **(self.options | options),
        )  # fmt: skip

    def expected(self) -> tuple[Any, Any, Any]:
        """(out, lse, block mass) in float64."""
        heads, size = self.q.shape[1], self.shape.v_head_dim
        out = np.zeros((len(self.q), heads, size))
        lse = np.full((len(self.q), heads), -np.inf)
        mass = np.zeros((len(self.q), heads, self.tables.shape[1]))
        cu = self.cu_seqlens_q()
        for i, (length, count) in enumerate(zip(self.lengths, self.q_lens, strict=True)):
            if length == 0 or count == 0:
                continue
            rows = slice(cu[i], cu[i + 1])
            k, v = self.reals[i]
            positions = np.arange(length)
            out[rows], lse[rows], weights = attention(
                self.q[rows], k, v, positions[length - count :], positions, **self.options
            )
            for column in range(-(-length // self.shape.block_size)):
                first = column * self.shape.block_size
                mass[rows, :, column] = weights[..., first : first + self.shape.block_size].sum(-1)
        return out, lse, mass


def seen_keys(length: int, count: int, options: dict[str, Any]) -> Any:
    """Which keys some of the last `count` tokens sees."""
    seen = np.zeros(length, bool)
    for position in range(length - count, length):
        keys = np.arange(length)
        visible = keys <= position if options.get("causal", True) else keys >= 0
        window = options.get("sliding_window")
        if window is not None:
            visible &= (keys > position - window) | (keys < options.get("num_sink_tokens", 0))
        seen |= visible
    return seen


def random_batch(
    random: Any, lengths: list[int], q_lens: list[int], shape: Shape, *, group: int = 2,
    share_open: float = 0.5, options: dict[str, Any] | None = None, q_dtype: str = "float32",
    open_dtypes: tuple[str, str] = ("float32", "float32"),
) -> Batch:  # fmt: skip
    """Codes and grids as they come, not as sealing would make them, so that all of them occur."""
    options = options or {}
    columns = [-(-length // shape.block_size) for length in lengths]
    is_open = [random.random(count) < share_open for count in columns]
    shape.num_open = sum(map(int, map(np.sum, is_open))) + 2
    shape.num_blocks = sum(columns) - shape.num_open + 2 + 3
    caches = empty_caches(shape, *open_dtypes)
    for codes in (caches.k_cache, caches.v_cache):
        codes[...] = random.integers(0, 256, codes.shape)
    ids = {
        True: list(shape.num_blocks + random.permutation(shape.num_open)),
        False: list(random.permutation(shape.num_blocks)),
    }
    tables = np.full((len(lengths), max([1, *columns])), -7)
    heads = shape.kv_heads * group
    q = random.standard_normal((sum(q_lens), heads, shape.head_dim)).astype(FLOATS[q_dtype])
    batch = Batch(shape, caches, tables, lengths, q_lens, q, options)

    def grids(size: tuple[int, ...]) -> Any:
        steps = random.lognormal(-2, 0.5, size)
        return np.stack([steps, random.standard_normal(size)], axis=-1).astype(np.float16)

    for i, (length, count) in enumerate(zip(lengths, q_lens, strict=True)):
        seen = seen_keys(length, count, options)
        k = np.zeros((length, shape.kv_heads, shape.head_dim))
        v = np.zeros((length, shape.kv_heads, shape.v_head_dim))
        for column, kind in enumerate(is_open[i]):
            block = tables[i, column] = ids[bool(kind)].pop()
            first = column * shape.block_size
            here = np.flatnonzero(seen[first : first + shape.block_size])  # offsets
            if kind:
                place = block - shape.num_blocks, here
                for open_, real in ((caches.k_open, k), (caches.v_open, v)):
                    open_[place] = random.standard_normal((len(here), *open_.shape[2:]))
                    real[first + here] = open_[place].astype(np.float64)
            elif len(here) > 0:
                caches.k_scale[block] = grids((shape.kv_heads, shape.head_dim))
                caches.v_scale[block, here] = grids((len(here), shape.kv_heads))
                k[first + here] = to_reals(caches.k_cache[block, here], caches.k_scale[block])
                v[first + here] = to_reals(
                    caches.v_cache[block, here], caches.v_scale[block, here][:, :, None]
                )
        batch.reals.append((k, v))
    return batch
