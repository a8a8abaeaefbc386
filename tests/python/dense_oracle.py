"""Attention as whole matrices in float64, keys standing at positions of their own."""

from __future__ import annotations

from typing import Any

import numpy as np


def visible(
    q_positions: Any,
    k_positions: Any,
    *,
    causal: bool = True,
    sliding_window: int | tuple[int, int] | None = None,
    num_sink_tokens: int = 0,
    tree: Any = None,
) -> Any:
    """[n, m]: whether each query sees each key; `tree` [n, n] of the last n keys, for causal."""
    distance = np.asarray(k_positions)[None] - np.asarray(q_positions)[:, None]
    seen = np.ones_like(distance, bool)
    if sliding_window is not None:
        left, right = (
            (sliding_window - 1, -1) if isinstance(sliding_window, int) else sliding_window
        )
        if left >= 0:
            seen &= distance >= -left
        if right >= 0:
            seen &= distance <= right
        seen |= np.asarray(k_positions) < num_sink_tokens
    if tree is not None:
        n, m = seen.shape
        seen[:, max(0, m - n) :] &= tree[:, max(0, n - m) :]
        return seen
    return seen & (distance <= 0) if causal else seen


def attention(
    q: Any,
    k: Any,
    v: Any,
    q_positions: Any,
    k_positions: Any,
    *,
    causal: bool = True,
    sliding_window: int | tuple[int, int] | None = None,
    num_sink_tokens: int = 0,
    tree: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
) -> tuple[Any, Any, Any]:
    """(out [n, Hq, Dv], lse [n, Hq], probabilities [n, Hq, m]) of one sequence.

    q [n, Hq, D], k [m, Hkv, D], v [m, Hkv, Dv]; positions [n] and [m]. Keys that no query sees may
    hold anything.
    """
    distance = np.asarray(k_positions)[None] - np.asarray(q_positions)[:, None]
    mask = visible(
        q_positions,
        k_positions,
        causal=causal,
        sliding_window=sliding_window,
        num_sink_tokens=num_sink_tokens,
        tree=tree,
    )
    seen = mask.any(axis=0)[:, None, None]
    group = q.shape[1] // k.shape[1]
    keys = np.repeat(np.where(seen, k.astype(np.float64), 0), group, axis=1)
    values = np.repeat(np.where(seen, v.astype(np.float64), 0), group, axis=1)
    scores = np.einsum("nhd,mhd->nhm", q.astype(np.float64), keys)
    scores *= q.shape[2] ** -0.5 if scale is None else scale
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if alibi_slopes is not None:
        scores = scores + np.asarray(alibi_slopes, np.float64)[:, None] * distance[:, None]
    scores = np.where(mask[:, None], scores, -np.inf)
    sink = np.full(q.shape[1], -np.inf) if sinks is None else np.asarray(sinks, np.float64)
    logits = np.concatenate([scores, np.broadcast_to(sink, scores.shape[:2])[..., None]], axis=2)
    top = logits.max(axis=2, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isfinite(top), top, 0)[..., None])
    some = mask.any(axis=1)[:, None]
    total = np.where(some, weights.sum(axis=2), 1)
    with np.errstate(divide="ignore"):
        lse = np.where(some, top + np.log(total), -np.inf)
    probabilities = np.where(some[..., None], weights[..., :-1] / total[..., None], 0)
    return np.einsum("nhm,mhd->nhd", probabilities, values), lse, probabilities
