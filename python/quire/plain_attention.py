"""Attention in a few lines of NumPy, in float64: what quire.verify holds the reference to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def plain_attention(
    q: Array, k: Array, v: Array, *, sliding_window: int | None, softcap: float | None
) -> npt.NDArray[np.float64]:
    """One query, that of the last token, over all keys.

    Args:
        q: [Hq, D]. k: [Hkv, tokens, D]. v: [Hkv, tokens, Dv].
        sliding_window, softcap: as in paged_attention.

    Returns:
        [Hq, Dv] float64.
    """
    if sliding_window is not None:
        k, v = k[:, -sliding_window:], v[:, -sliding_window:]
    groups = q.astype(np.float64).reshape(len(k), -1, q.shape[1])
    scores = groups @ k.astype(np.float64).swapaxes(1, 2) / np.sqrt(q.shape[1])
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    out: npt.NDArray[np.float64] = (weights @ v.astype(np.float64)).reshape(len(q), v.shape[2])
    return out
