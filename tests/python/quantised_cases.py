"""What the tests of quantised caches share: what write_kv is documented to store, and attention in
float64 on what is stored, poison everywhere else."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

QUANTISED = {
    "int8": np.dtype(np.int8),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
SMALLEST = np.finfo(np.float32).tiny  # of a scale
IMPLEMENTATIONS = ("fused", "gather", "dense")
FLOATS = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def quantise(rows: Any, dtype: str, scale: Any = None) -> tuple[Any, Any]:
    """(numbers, scales) of rows [..., D] as write_kv is documented to make them."""
    rows = np.asarray(rows, np.float32)
    if scale is None:
        largest = np.abs(rows).max(axis=-1) if rows.size else np.zeros(rows.shape[:-1])
        scale = np.maximum(largest.astype(np.float32) / np.float32(LARGEST[dtype]), SMALLEST)
    scale = np.broadcast_to(np.asarray(scale, np.float32), rows.shape[:-1])
    cut = np.clip(rows / scale[..., None], -LARGEST[dtype], LARGEST[dtype])
    return (np.rint(cut) if dtype == "int8" else cut).astype(QUANTISED[dtype]), scale


def poison(shape: tuple[int, ...], dtype: str) -> Any:
    """NaN; an int8, which has none, is as large as it can be."""
    return np.full(shape, -128 if dtype == "int8" else np.nan, QUANTISED[dtype])


def attention(q: Any, k: Any, v: Any, window: int | None = None) -> tuple[Any, Any]:
    """(out, lse) in float64 of the last len(q) of len(k) tokens, causal."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = np.einsum("thd,jhd->htj", q, k) / np.sqrt(q.shape[2])
    position = np.arange(len(k) - len(q), len(k))[:, None]
    key = np.arange(len(k))
    seen = (key <= position) & (key > position - (len(k) if window is None else window))
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=2, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(axis=2, keepdims=True)
    out = np.einsum("htj,jhd->thd", weights / total, v)
    return out, (top + np.log(total))[..., 0].T


class Paged:
    """One sequence of stored numbers and scales, in blocks dealt at random, all else poison."""

    def __init__(
        self, numbers: Any, scales: Any, dtype: str, block_size: int, order: Any, layout: str
    ) -> None:
        length, heads, size = numbers.shape
        slots = [(order[i // block_size], i % block_size) for i in range(length)]
        self.scale = np.full((len(order), block_size, heads), np.nan, np.float32)
        self.cache = poison((len(order), block_size, heads, size), dtype)
        for i, slot in enumerate(slots):
            self.cache[slot], self.scale[slot] = numbers[i], scales[i]
        if layout == "HND":
            self.cache = np.ascontiguousarray(self.cache.swapaxes(1, 2))
        self.real = numbers.astype(np.float32).astype(np.float64) * scales[..., None]
