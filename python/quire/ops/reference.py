"""The operators of quire.ops in float64, as plainly as they can be said."""

from __future__ import annotations

import math
from itertools import pairwise
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


def _sigmoid(x: _Floats64) -> _Floats64:
    with np.errstate(over="ignore"):  # e^-x of numbers far below 0
        return np.asarray(1 / (1 + np.exp(-x)))


def _silu(x: _Floats64) -> _Floats64:
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)))


def swiglu(gate: Any, up: Any, *, activation: str = "silu") -> _Floats64:
    """activation(gate) * up."""
    x, up = np.asarray(gate).astype(np.float64), np.asarray(up).astype(np.float64)
    if activation == "silu":
        return np.asarray(_silu(x) * up)
    if activation == "sigmoid":
        return np.asarray(_sigmoid(x) * up)
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


def philox_uniform(seed: int, position: int) -> float:
    """The number of [0, 1) of sample's last step: Philox4x32-10, position its counter."""
    word = 0xFFFFFFFF
    counter = [position & word, position >> 32 & word, 0, 0]
    key = [seed & word, seed >> 32 & word]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b >> 32 ^ counter[1] ^ key[0], b & word, a >> 32 ^ counter[3] ^ key[1], a & word]
        key = [(key[0] + 0x9E3779B9) & word, (key[1] + 0xBB67AE85) & word]
    return float((counter[0] << 32 | counter[1]) >> 11) * 2.0**-53


def sample_probabilities(
    logits: Any,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    prompt_ids: Any = (),
    output_ids: Any = (),
    bias: Any = None,
    allowed: Any = None,
) -> _Floats64:
    """What each token [V] is chosen with, of one row of logits; steps 1 to 7 of sample.

    allowed: bools [V], sample's mask. Logits are adjusted in float32, as they are there.
    """
    x = np.asarray(logits).astype(np.float32)
    if bias is not None:
        x = x + np.asarray(bias).astype(np.float32)
    if allowed is not None:
        x = np.where(allowed, x, np.float32(-np.inf))
    outputs = np.asarray(output_ids, np.int64)
    counts = np.bincount(outputs[outputs >= 0], minlength=len(x))
    seen = counts > 0
    seen[[id for id in np.asarray(prompt_ids, np.int64) if id >= 0]] = True
    r = np.float32(repetition_penalty)
    x = np.where(seen, np.where(x > 0, x / r, x * r), x)
    x = np.where(counts > 0, x - np.float32(frequency_penalty) * counts.astype(np.float32), x)
    x = np.where(counts > 0, x - np.float32(presence_penalty), x)
    order = np.argsort(-x, kind="stable")
    p = np.zeros(len(x))
    if temperature == 0:
        p[order[0]] = 1
        return p
    weights = np.exp((x.astype(np.float64) - float(x.max())) / temperature)
    if 0 < top_k < len(x):
        weights[x < x[order[top_k - 1]]] = 0
    before = np.cumsum(weights[order]) - weights[order]
    kept = order[before < top_p * weights.sum()]
    kept = kept[weights[kept] >= min_p]
    p[kept] = weights[kept]
    return np.asarray(p / p.sum())


def sample(logits: Any, *, seed: int, position: int, **options: Any) -> int:
    """The token of one row of logits; options as of sample_probabilities."""
    borders = np.cumsum(sample_probabilities(logits, **options))
    u = philox_uniform(seed, position) * borders[-1]
    return int(np.searchsorted(borders, u, side="right"))


def route(
    logits: Any, top_k: int, *, scoring: str = "softmax", renormalise: bool = True, bias: Any = None
) -> tuple[_Floats64, npt.NDArray[np.int32]]:
    """Weights and experts [T, top_k]: the largest scores, of equals the lowest id."""
    x = np.asarray(logits).astype(np.float64)
    if scoring == "softmax":
        scores = np.exp(x - x.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    else:
        with np.errstate(over="ignore"):  # infinity, whose score is 0
            scores = 1 / (1 + np.exp(-x))
    ranks = scores if bias is None else scores + np.asarray(bias).astype(np.float64)
    experts = np.argsort(-ranks, axis=1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(scores, experts, axis=1)
    if renormalise:
        sums = weights.sum(axis=1, keepdims=True)
        weights = np.where(sums == 0, 1 / top_k, weights / np.where(sums == 0, 1, sums))
    return weights, experts.astype(np.int32)


def _spans(cu_seqlens: Any, num_tokens: int, num_sequences: int) -> list[tuple[int, int]]:
    """Where the tokens of each sequence begin and end."""
    if cu_seqlens is None:
        each = num_tokens if num_sequences == 1 else 1
        cu_seqlens = [i * each for i in range(num_sequences + 1)]
    borders = [int(i) for i in cu_seqlens]
    return list(pairwise(borders))


def causal_conv1d(
    x: Any,
    weight: Any,
    *,
    state: Any,
    bias: Any = None,
    cu_seqlens: Any = None,
    activation: str | None = "silu",
    state_indices: Any = None,
) -> tuple[_Floats64, _Floats64]:
    """out [T, C], and the state [S, C, K - 1] after it; the one that is given stays."""
    x, w = np.asarray(x).astype(np.float64), np.asarray(weight).astype(np.float64)
    state = np.asarray(state).astype(np.float64)
    out, taps = np.zeros(x.shape), w.shape[1]
    states = range(len(state)) if state_indices is None else state_indices
    for i, (begin, end) in zip(states, _spans(cu_seqlens, len(x), len(states)), strict=True):
        rows = np.concatenate([state[i].T, x[begin:end]])
        for t in range(end - begin):
            out[begin + t] = (w.T * rows[t : t + taps]).sum(axis=0)
        state[i] = rows[len(rows) - (taps - 1) :].T
    if bias is not None:
        out = out + np.asarray(bias).astype(np.float64)
    return (_silu(out) if activation else out), state


def gated_delta_rule(
    q: Any,
    k: Any,
    v: Any,
    g: Any,
    beta: Any,
    *,
    state: Any,
    cu_seqlens: Any = None,
    scale: float | None = None,
    state_indices: Any = None,
) -> tuple[_Floats64, _Floats64]:
    """out [T, Hv, Dv], and the state [S, Hv, Dk, Dv] after it; the one that is given stays."""
    q, k, v, g, beta, state = (
        np.asarray(array).astype(np.float64) for array in (q, k, v, g, beta, state)
    )
    scale = q.shape[2] ** -0.5 if scale is None else float(scale)
    q, k = (np.repeat(array, v.shape[1] // array.shape[1], axis=1) for array in (q, k))
    out = np.zeros(v.shape)
    states = range(len(state)) if state_indices is None else state_indices
    for i, (begin, end) in zip(states, _spans(cu_seqlens, len(q), len(states)), strict=True):
        s = state[i]  # [Hv, Dk, Dv]
        for t in range(begin, end):
            s *= np.exp(g[t])[:, None, None]
            delta = (v[t] - np.einsum("hkv,hk->hv", s, k[t])) * beta[t][:, None]
            s += k[t][:, :, None] * delta[:, None, :]
            out[t] = np.einsum("hkv,hk->hv", s, q[t]) * scale
    return out, state
