"""A correct call of each function over int4 caches, for tests that spoil it in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
from int4_cases import Shape, empty_caches

import quire

BLOCK_SIZE, HEADS, SIZE, V_SIZE = 4, 2, 8, 6
ARRAYS = ("k_cache", "v_cache", "k_scale", "v_scale", "k_open", "v_open")


class Call:
    """A small correct call of each function, to be spoilt in one place.

    One sequence of 11 tokens, of which two are queries, in blocks 2, 5 (the second open one) and 0.
    """

    def __init__(self, layout: str = "NHD") -> None:
        shape = Shape(4, 2, BLOCK_SIZE, HEADS, SIZE, V_SIZE)
        caches = empty_caches(shape)
        for array in caches.arrays().values():
            array[...] = 1
        self.given: dict[str, Any] = caches.given(layout)
        self.q: Any = np.ones((2, 4, SIZE), np.float32)
        self.out: Any = np.full((2, 4, V_SIZE), 7, np.float32)
        self.tables: Any = np.array([[2, 5, 0]])
        self.lengths: Any = np.array([11])
        # block 1 whole, backwards, and two rows of the first open block
        self.slots: Any = np.array([7, 6, 5, 4, 16, -1, 18])
        self.k: Any = np.ones((7, HEADS, SIZE), np.float32)
        self.v: Any = np.ones((7, HEADS, V_SIZE), np.float32)

    def attend(self, **options: Any) -> Any:
        arguments = self.given | {"out": self.out} | options
        return quire.paged_attention(
            self.q, arguments.pop("k_cache"), arguments.pop("v_cache"), self.tables, self.lengths,
            cu_seqlens_q=np.array([0, 2]), **arguments,
        )  # fmt: skip

    def write(self) -> None:
        arguments = dict(self.given)
        quire.write_kv(
            self.k, self.v, arguments.pop("k_cache"), arguments.pop("v_cache"), self.slots,
            **arguments,
        )  # fmt: skip

    def bytes(self) -> list[bytes]:
        arrays = [*self.given.values(), self.out]
        return [array.tobytes() for array in arrays if isinstance(array, np.ndarray)]
