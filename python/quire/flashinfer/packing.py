"""Masks packed to bits, with FlashInfer's names and arguments."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from quire.flashinfer.planned import indptr_of
from quire.tensor_views import Array, array_of, tensor_like


def packbits(x: Any, bitorder: str = "big") -> Any:
    """8 entries a byte, uint8 [ceil(n / 8)], of x's library.

    Args:
        x: bool [n]. bitorder: "big": the first entry is the highest bit; "little": the lowest, as
            masks of attention are.
    """
    bits, order = _bits("packbits", x, bitorder)
    return tensor_like(np.packbits(bits, bitorder=order), x)


def segment_packbits(x: Any, indptr: Any, bitorder: str = "big") -> tuple[Any, Any]:
    """As packbits, with each segment on bytes of its own: (packed, where each begins, [B + 1]).

    Args:
        x: bool [indptr[-1]]. indptr: [B + 1]: where each segment begins.
    """
    bits, order = _bits("segment_packbits", x, bitorder)
    starts = indptr_of(indptr, "segment_packbits: indptr")
    if starts[-1] != len(bits):
        raise ValueError(
            f"segment_packbits: indptr: got {starts[-1]} at its end, expected {len(bits)}"
        )
    parts = [np.packbits(part, bitorder=order) for part in np.split(bits, starts[1:-1])]
    ends = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    packed = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    like = array_of(indptr, "segment_packbits: indptr").dtype
    return tensor_like(packed, x), tensor_like(ends.astype(like), indptr)


def _bits(function: str, x: Any, bitorder: str) -> tuple[Array, Literal["big", "little"]]:
    bits = array_of(x, f"{function}: x")
    if bits.ndim != 1:
        raise ValueError(f"{function}: x: got {bits.ndim} axes, expected 1")
    if bitorder not in ("big", "little"):
        raise ValueError(f"{function}: bitorder: got {bitorder!r}, expected 'big' or 'little'")
    return bits.astype(bool), "big" if bitorder == "big" else "little"
