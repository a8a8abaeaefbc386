"""Queries, keys and values for quire.verify: of a real model, of a user's file, or made up."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """One sequence: k [tokens, Hkv, D], v [tokens, Hkv, Dv]; q [steps, Hq, D]: its last tokens."""

    name: str
    q: Array
    k: Array
    v: Array

    def __post_init__(self) -> None:
        q, k, v = self.q, self.k, self.v
        if q.ndim != 3 or k.ndim != 3 or v.ndim != 3:
            raise ValueError(
                f"trace: got q {q.shape}, k {k.shape}, v {v.shape}, "
                "expected three axes each: [tokens, heads, head size]"
            )
        if k.shape[:2] != v.shape[:2] or q.shape[2] != k.shape[2] or len(q) > len(k):
            raise ValueError(
                f"trace: got q {q.shape}, k {k.shape}, v {v.shape}, expected k and v of one length "
                "and head count, q of k's head size and at most its length"
            )
        if q.shape[1] % k.shape[1]:
            raise ValueError(
                f"trace: got {q.shape[1]} query heads, expected a multiple of {k.shape[1]}"
            )


def shipped_trace(*, layer: int | None = None) -> Trace:
    """The trace inside the package: 1848 tokens of context and 200 steps of a small real model.

    Args:
        layer: 1 or 4; None: 1.
    """
    with resources.as_file(resources.files("quire") / "data" / "trace.npz") as path:
        trace = load_trace(path, layer=layer)
    return Trace(f"a real model's trace, layer {layer or 1}", trace.q, trace.k, trace.v)


def load_trace(path: str | PathLike[str], *, layer: int | None = None) -> Trace:
    """Read an npz file with q, k and v, or layer{n}_q, layer{n}_k and layer{n}_v.

    Args:
        path: of the file. q [tokens or steps, Hq, D], k [tokens, Hkv, D], v [tokens, Hkv, Dv].
        layer: which of several; None: the first.

    Raises:
        ValueError: a file without them. OSError: one that cannot be read.
    """
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        layers = sorted(
            int(name[5:-2])
            for name in names
            if name.startswith("layer") and name.endswith("_q") and name[5:-2].isdigit()
        )
        if layer is None and {"q", "k", "v"} <= names:
            prefix = ""
        elif layers and (layer is None or layer in layers):
            prefix = f"layer{layers[0] if layer is None else layer}_"
        else:
            raise ValueError(
                f"load_trace: path: got a file with {sorted(names)}, expected q, k, v "
                f"or layer{'n' if layer is None else layer}_q, _k, _v"
            )
        missing = [prefix + name for name in "qkv" if prefix + name not in names]
        if missing:
            raise ValueError(f"load_trace: path: got a file without {', '.join(missing)}")
        q, k, v = (file[prefix + name] for name in "qkv")
    return Trace(str(path), q, k, v)


def synthetic_trace(
    *, context: int, steps: int, heads: tuple[int, int], head_dims: tuple[int, int], seed: int
) -> Trace:
    """Normal random numbers with a few strong keys, as attention has them."""
    num_heads, num_kv_heads = heads
    if min(num_heads, num_kv_heads, *head_dims) < 1:
        raise ValueError(
            f"verify: heads, head_dim: got {heads} and {head_dims}, expected all at least 1"
        )
    random = np.random.default_rng(seed)
    head_dim, v_head_dim = head_dims
    tokens = context + steps
    k = random.standard_normal((tokens, num_kv_heads, head_dim), np.float32)
    k[random.random(tokens) < 0.02] *= 4
    return Trace(
        "synthetic",
        random.standard_normal((steps, num_heads, head_dim), np.float32),
        k,
        random.standard_normal((tokens, num_kv_heads, v_head_dim), np.float32),
    )
