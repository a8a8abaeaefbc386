"""On a real model's queries, keys and values the kernels err no more than plain float32 does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DTYPES

import quire
from quire.trace import shipped_trace

MOST = 1.5  # times the error of plain float32
BLOCK_SIZE = 16


def attention(q: Any, k: Any, v: Any, dtype: type) -> Any:
    """Causal attention of the last len(q) of len(k) tokens, all arithmetic in `dtype`."""
    q, k, v = (x.astype(dtype).swapaxes(0, 1) for x in (q, k, v))
    groups = q.reshape(len(k), -1, q.shape[2])  # [Hkv, heads of the group x tokens, D]
    scores = groups @ k.swapaxes(1, 2) * dtype(1 / np.sqrt(q.shape[2]))
    visible = np.arange(k.shape[1]) <= np.arange(k.shape[1] - q.shape[1], k.shape[1])[:, None]
    scores[~np.broadcast_to(np.tile(visible, (len(q) // len(k), 1)), scores.shape)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    out = (weights @ v) / weights.sum(axis=2, keepdims=True)
    return out.reshape(len(q), -1, v.shape[2]).swapaxes(0, 1)


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x.astype(np.float64)))))


def as_blocks(rows: Any) -> Any:
    padding = np.zeros((-len(rows) % BLOCK_SIZE, *rows.shape[1:]), rows.dtype)
    return np.concatenate([rows, padding]).reshape(-1, BLOCK_SIZE, *rows.shape[1:])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("implementation", ["fused", "gather"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layer", [1, 4])
def test_errs_little_more_than_plain_float32(implementation: Any, dtype: str, layer: int) -> None:
    trace = shipped_trace(layer=layer)
    for tokens in (1, 2, 8, 200):  # rows that are read directly, and that go through packed keys
        q, k, v = (x.astype(DTYPES[dtype]) for x in (trace.q[-tokens:], trace.k, trace.v))
        exact = attention(q, k, v, np.float64)
        plain = attention(q, k, v, np.float32)
        k_cache, v_cache = as_blocks(k), as_blocks(v)
        for out in (np.empty(plain.shape, np.float32), np.empty_like(q)):
            quire.paged_attention(
                q,
                k_cache,
                v_cache,
                np.arange(len(k_cache), dtype=np.int32)[None],
                np.array([len(k)]),
                cu_seqlens_q=np.array([0, tokens]),
                implementation=implementation,
                out=out,
            )
            allowed = MOST * rms(plain.astype(out.dtype).astype(np.float64) - exact)
            assert rms(out.astype(np.float64) - exact) < allowed, (tokens, out.dtype)
