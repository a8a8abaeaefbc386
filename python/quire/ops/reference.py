"""The operators of quire.ops in float64, as plainly as they can be said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from quire._core import Weight

_Floats64 = npt.NDArray[np.float64]


def linear(x: Any, weight: Weight | Any, *, bias: Any = None) -> _Floats64:
    """x @ w.T + bias, [M, N], not rounded to x's dtype; of a Weight the numbers it multiplies."""
    w = weight.unpack() if isinstance(weight, Weight) else np.asarray(weight)
    out = np.asarray(x).astype(np.float64) @ w.astype(np.float64).T
    return out if bias is None else out + np.asarray(bias).astype(np.float64)


def rms_norm(
    x: Any,
    weight: Any,
    *,
    eps: float = 1e-6,
    residual: Any = None,
    weight_offset: float = 0.0,
    gate: Any = None,
) -> Any:
    """h / sqrt(mean(h^2) + eps) * (weight_offset + weight) * silu(gate), or with a residual that
    and h; h = x + residual, rounded to x's dtype."""
    x = np.asarray(x)
    h = x.astype(np.float64)
    if residual is not None:
        h = (h + np.asarray(residual).astype(np.float64)).astype(np.float32)
        h = h.astype(x.dtype).astype(np.float64)
    root = np.sqrt((h**2).mean(axis=-1, keepdims=True) + eps)
    y = h / root * (weight_offset + np.asarray(weight).astype(np.float64))
    if gate is not None:
        y = y * _silu(np.asarray(gate).astype(np.float64))
    return y if residual is None else (y, h)


def _silu(x: _Floats64) -> _Floats64:
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)))


def swiglu(gate: Any, up: Any, *, activation: str = "silu") -> _Floats64:
    """activation(gate) * up."""
    x, up = np.asarray(gate).astype(np.float64), np.asarray(up).astype(np.float64)
    if activation == "silu":
        return np.asarray(_silu(x) * up)
    if activation == "gelu":
        erfc = np.vectorize(math.erfc, otypes=[np.float64])
        return np.asarray(x / 2 * erfc(-x / math.sqrt(2)) * up)
    with np.errstate(over="ignore"):  # (1 + tanh(u)) / 2 without its cancellation far below 0
        u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return np.asarray(x / (1 + np.exp(-2 * u)) * up)


def rope(
    x: Any,
    positions: Any,
    *,
    theta: float = 10000.0,
    rotary_dim: int | None = None,
    interleaved: bool = False,
    inv_freq: Any = None,
    attention_factor: float = 1.0,
) -> _Floats64:
    """Pairs of the first rotary_dim numbers of each head turned by position * inv_freq radians."""
    out = np.asarray(x).astype(np.float64)
    n = out.shape[-1] if rotary_dim is None else rotary_dim
    if inv_freq is None:
        inv_freq = float(theta) ** (-np.arange(0, n, 2, dtype=np.float64) / n)
    angles = np.multiply.outer(
        np.asarray(positions).astype(np.float64), np.asarray(inv_freq).astype(np.float64)
    )[:, None]
    pairs = (slice(0, n, 2), slice(1, n, 2)) if interleaved else (slice(n // 2), slice(n // 2, n))
    a, b = (out[..., pair].copy() for pair in pairs)
    out[..., pairs[0]] = attention_factor * (a * np.cos(angles) - b * np.sin(angles))
    out[..., pairs[1]] = attention_factor * (b * np.cos(angles) + a * np.sin(angles))
    return out
