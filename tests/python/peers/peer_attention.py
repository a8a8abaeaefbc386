"""Attention in float64 as the peers define it, written from its formula alone, and paged problems
whose unused slots are NaN."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# What rounding of inputs' products and of the result leaves, for values around 1.
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 2e-2}


def sampled(count: int, seed: int, **axes: list[Any]) -> list[dict[str, Any]]:
    """Some points of a grid, the same ones each time: every value of each axis is among them."""
    random = np.random.default_rng(seed)
    grid = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    if len(grid) <= count:
        return grid
    points = [grid[i] for i in random.choice(len(grid), count, replace=False)]
    for name, values in axes.items():
        for value in values:
            if not any(point[name] == value for point in points):
                points.append({**grid[random.integers(len(grid))], name: value})
    return points


def visible_keys(
    rows: int, keys: int, causal: bool, left: int = -1, right: int = -1
) -> np.ndarray[Any, Any]:
    """Bool [rows, keys]: rows are the last positions; left and right count keys beside a row."""
    visible = np.ones((rows, keys), bool)
    for row in range(rows):
        position = keys - rows + row
        for key in range(keys):
            visible[row, key] = (
                (not causal or key <= position)
                and (left < 0 or key >= position - left)
                and (right < 0 or key <= position + right)
            )
    return visible


def attention(
    q: Any,
    k: Any,
    v: Any,
    visible: Any,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    slopes: Any = None,
    sinks: Any = None,
) -> tuple[Any, Any]:
    """(out [n, Hq, Dv], natural log-sum-exp [n, Hq]) of one sequence in float64, a row at a time.

    slopes: slope * (key - row's position) is added, rows being the last positions.
    """
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    rows, heads, size = q.shape
    keys = len(k)
    out = np.zeros((rows, heads, v.shape[2]))
    lse = np.full((rows, heads), -np.inf)
    for row, head in np.ndindex(rows, heads):
        seen = np.flatnonzero(visible[row])
        if len(seen) == 0:
            continue
        kv_head = head // (heads // k.shape[1])
        scores = k[seen, kv_head] @ q[row, head] * (size**-0.5 if scale is None else scale)
        if softcap > 0:
            scores = softcap * np.tanh(scores / softcap)
        if slopes is not None:
            scores = scores + float(slopes[head]) * (seen - (keys - rows + row))
        top = scores.max() if sinks is None else max(scores.max(), float(sinks[head]))
        weights = np.exp(scores - top)
        total = weights.sum() + (0 if sinks is None else np.exp(float(sinks[head]) - top))
        out[row, head] = weights @ v[seen, kv_head] / total
        lse[row, head] = top + np.log(total)
    return out, lse


@dataclass
class PagedBatch:
    """Keys and values of some sequences scattered over pages; all other slots are NaN."""

    kv_lens: list[int]
    page_size: int
    indptr: Any
    indices: Any
    last_page_len: Any
    k_cache: Any  # NHD
    v_cache: Any
    keys: list[Any] = field(repr=False)
    values: list[Any] = field(repr=False)

    def cache(self, form: str, layout: str) -> Any:
        """As "tuple", "packed" (both in one array) or "pages of one" (without the page's axis)."""
        pair = [x if layout == "NHD" else x.swapaxes(1, 2) for x in (self.k_cache, self.v_cache)]
        pair = [np.ascontiguousarray(x) for x in pair]
        if form == "pages of one":
            assert self.page_size == 1
            return tuple(x.squeeze(1 if layout == "NHD" else 2) for x in pair)
        return tuple(pair) if form == "tuple" else np.stack(pair, axis=1)

    def table(self, pad: int) -> Any:
        """The pages of each sequence, [B, most]."""
        most = max(np.diff(self.indptr), default=0) + 1
        table = np.full((len(self.kv_lens), most), pad, np.int32)
        for row, (begin, end) in zip(table, itertools.pairwise(self.indptr), strict=True):
            row[: end - begin] = self.indices[begin:end]
        return table


def paged_batch(
    kv_lens: list[int],
    page_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: str = "float32",
    seed: int = 0,
    v_head_dim: int | None = None,
) -> PagedBatch:
    """Random keys and values in pages of random order, a few of which belong to nobody."""
    random = np.random.default_rng(seed)
    pages = [-(-length // page_size) for length in kv_lens]
    order = random.permutation(sum(pages) + 3)
    sizes = head_dim, head_dim if v_head_dim is None else v_head_dim
    k_cache, v_cache = (
        np.full((len(order), page_size, num_kv_heads, size), np.nan, DTYPES[dtype])
        for size in sizes
    )
    keys, values = [], []
    indptr = np.concatenate([[0], np.cumsum(pages)]).astype(np.int32)
    for length, begin in zip(kv_lens, indptr, strict=False):
        for cache, rows, size in [(k_cache, keys, sizes[0]), (v_cache, values, sizes[1])]:
            x = random.standard_normal((length, num_kv_heads, size)).astype(DTYPES[dtype])
            for position in range(length):
                page = order[begin + position // page_size]
                cache[page, position % page_size] = x[position]
            rows.append(x)
    last = [(length - 1) % page_size + 1 if length else 0 for length in kv_lens]
    return PagedBatch(
        kv_lens,
        page_size,
        indptr,
        order[: sum(pages)].astype(np.int32),
        np.array(last, np.int32),
        k_cache,
        v_cache,
        keys,
        values,
    )


def queries(rows: int, heads: int, size: int, dtype: str = "float32", seed: int = 1) -> Any:
    """Random queries, [rows, heads, size]."""
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, heads, size)).astype(DTYPES[dtype])


def expected(
    q: Any, q_lens: list[int], batch: PagedBatch, visible: list[Any], **options: Any
) -> tuple[Any, Any]:
    """attention() of each sequence of a batch, its rows one after the other."""
    parts, begin = [], 0
    for rows, k, v, mask in zip(q_lens, batch.keys, batch.values, visible, strict=True):
        parts.append(attention(q[begin : begin + rows], k, v, mask, **options))
        begin += rows
    return np.concatenate([out for out, _ in parts]), np.concatenate([lse for _, lse in parts])


def assert_close(got: Any, wanted: Any, dtype: str, *, factor: float = 1.0) -> None:
    """Within what rounding to dtype leaves; -inf only where it is wanted."""
    got = np.asarray(got).astype(np.float64)
    assert got.shape == wanted.shape
    tolerance = TOLERANCE[dtype] * factor
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
