"""Queries, keys and values for quire.verify: of a real model, of a user's file, or made up."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from importlib import resources
from os import PathLike
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from quire.counted import counted

Array = npt.NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
# What NumPy raises for a file that is damaged or something else altogether.
_UNREADABLE = (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class Trace:
    """One sequence of finite float32, float16 or bfloat16 numbers.

    k [tokens, Hkv, D], v [tokens, Hkv, Dv]; q [steps, Hq, D]: the queries of its last tokens.

    Raises:
        ValueError: shapes that do not fit each other, or a number that is not finite.
        TypeError: another dtype.
    """

    name: str
    q: Array
    k: Array
    v: Array

    def __post_init__(self) -> None:
        for name, array in (("q", self.q), ("k", self.k), ("v", self.v)):
            if array.dtype not in FLOATS:
                raise TypeError(
                    f"Trace: {name}: got {array.dtype}, expected float32, float16 or bfloat16"
                )
            if array.ndim != 3 or array.size == 0:
                raise ValueError(
                    f"Trace: {name}: got shape {array.shape}, expected [tokens, heads, head size], "
                    "all at least 1"
                )
        q, k, v = self.q, self.k, self.v
        if k.shape[:2] != v.shape[:2]:
            raise ValueError(
                f"Trace: v: got shape {v.shape}, expected k's {counted(k.shape[0], 'token')} and "
                f"{counted(k.shape[1], 'head')}"
            )
        if len(q) > len(k) or q.shape[1] % k.shape[1] or q.shape[2] != k.shape[2]:
            raise ValueError(
                f"Trace: q: got shape {q.shape}, expected at most {counted(len(k), 'token')}, a "
                f"multiple of {counted(k.shape[1], 'head')}, and head size {k.shape[2]}"
            )
        for name, array in (("q", q), ("k", k), ("v", v)):
            finite = np.isfinite(array)
            if not finite.all():
                place = [int(i) for i in np.argwhere(~finite)[0]]
                raise ValueError(
                    f"Trace: {name}: got {array[tuple(place)]} at {place}, expected finite numbers"
                )

    def decode(self, steps: int) -> Trace:
        """The same tokens, of which only the last `steps` have queries."""
        if not 1 <= steps <= len(self.q):
            raise ValueError(f"verify: steps: got {steps}, expected 1 to {len(self.q)}")
        return Trace(self.name, self.q[-steps:], self.k, self.v)

    def variant(self, dropped: int, rotation: int) -> Trace:
        """Another sequence: the first tokens dropped, the channels of v rotated.

        A shorter context alone would not do: a model that looks at recent tokens gives nearly the
        same then. With the channels rotated no sequence can pass for another.
        """
        v = np.roll(self.v[dropped:], rotation, axis=2)
        return Trace(self.name, self.q, self.k[dropped:], v)


@dataclass(frozen=True)
class Synthetic:
    """Sizes of made-up sequences, for quire.verify(trace=Synthetic(...)).

    heads: (query heads, KV heads). head_dim: of q and k. v_head_dim: of v; None: as head_dim.
    context: tokens before the first step.

    Example:
        >>> quire.verify(20, trace=Synthetic(heads=(32, 8), head_dim=128, context=500)).passed
        True
    """

    heads: tuple[int, int] = (8, 2)
    head_dim: int = 64
    v_head_dim: int | None = None
    context: int = 1848

    def __post_init__(self) -> None:
        for name, value, least in (
            ("heads", min(self.heads), 1),
            ("head_dim", self.head_dim, 1),
            ("v_head_dim", 1 if self.v_head_dim is None else self.v_head_dim, 1),
            ("context", self.context, 0),
        ):
            if value < least:
                raise ValueError(f"Synthetic: {name}: got {value}, expected at least {least}")
        if self.heads[0] % self.heads[1]:
            raise ValueError(
                f"Synthetic: heads: got {self.heads}, expected the first a multiple of the second"
            )

    def trace(self, steps: int, seed: tuple[int, ...]) -> Trace:
        """Normal random numbers, one key in fifty four times as large, as attention has them."""
        random = np.random.default_rng(seed)
        tokens = self.context + steps
        v_head_dim = self.head_dim if self.v_head_dim is None else self.v_head_dim
        k = random.standard_normal((tokens, self.heads[1], self.head_dim), np.float32)
        k[random.random(tokens) < 0.02] *= 4
        return Trace(
            "synthetic",
            random.standard_normal((steps, self.heads[0], self.head_dim), np.float32),
            k,
            random.standard_normal((tokens, self.heads[1], v_head_dim), np.float32),
        )


def shipped_trace(*, layer: int | None = None) -> Trace:
    """The float16 trace inside the package: 2048 tokens of a small real model, the last 200 with
    queries.

    Args:
        layer: 1 or 4; None: 4, of which a missing block shows more.
    """
    layer = 4 if layer is None else layer
    with resources.as_file(resources.files("quire") / "data" / "trace.npz") as path:
        trace = load_trace(path, layer=layer)
    return Trace(f"a real model's trace, layer {layer}", trace.q, trace.k, trace.v)


def load_trace(path: str | PathLike[str], *, layer: int | None = None) -> Trace:
    """Read an npz file with q, k and v, or layer{n}_q, layer{n}_k and layer{n}_v.

    Args:
        path: of the file. q [tokens or steps, Hq, D], k [tokens, Hkv, D], v [tokens, Hkv, Dv],
            float32 or float16: npz knows no bfloat16, which float32 holds without loss.
        layer: which of several; None: q, k and v, or else the first layer.

    Raises:
        ValueError: a file without them. TypeError: another dtype. OSError: no such file.

    Example:
        >>> np.savez("mine.npz", q=q, k=k, v=v)
        >>> quire.verify(trace="mine.npz").passed
        True
    """
    with open(path, "rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError(f"load_trace: path: got {path}, expected an npz file")
        stream.seek(0)
        try:
            with np.load(stream, allow_pickle=False) as file:
                arrays = [file[name] for name in _names(file.files, layer)]
        except _UNREADABLE as error:
            raise ValueError(f"load_trace: path: {path}: {_one_line(error)}") from error
    return Trace(str(path), *arrays)


def _names(present: list[str], layer: int | None) -> list[str]:
    """The names of q, k and v in the file."""
    layers = sorted(
        int(name[5:-2])
        for name in present
        if name.startswith("layer") and name.endswith("_q") and name[5:-2].isdecimal()
    )
    if layer is None and ("q" in present or not layers):
        names = ["q", "k", "v"]
    else:
        names = [f"layer{layers[0] if layer is None else layer}_{name}" for name in "qkv"]
    missing = [name for name in names if name not in present]
    if missing:
        raise ValueError(f"got the arrays {sorted(present)}, expected also {missing}")
    return names


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
