"""PyTorch's scaled_dot_product_attention on the CPU: contiguous, and after a gather of the blocks.

It is given bfloat16 keys and values [1, KV_HEADS, keys, HEAD_DIM]. Which way of sharing them among
the query heads is fastest depends on the case and the machine: all are tried and the best is kept.
"group as query rows" passes the query heads of a KV head as so many queries of one head, which
decode allows: keys and values are then read once.
"""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from peers_cases import BLOCK_SIZE, HEAD_DIM, HEADS, KV_HEADS, Array, Inputs

MOST_TRIALS, TRIAL_SECONDS = 3, 1.0


class _TorchAttention(ABC):
    """The forms of the call, over keys and values that a subclass brings."""

    def __init__(self, inputs: Inputs) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._attention = self._torch.nn.functional.scaled_dot_product_attention
        self._causal = not inputs.case.decode
        self._copies = inputs.case.copies
        self._q = self._tensor(inputs.q)[None].transpose(1, 2).contiguous()
        self._forms: dict[str, Callable[[Any, Any], Any]] = {
            "enable_gqa": self._enable_gqa,
            "repeat_interleave": self._repeat,
        }
        if inputs.case.decode:
            self._forms["group as query rows"] = self._group_as_rows
        self._form = "enable_gqa"
        self._others = ""

    @abstractmethod
    def _keys_and_values(self, copy: int) -> tuple[Any, Any]:
        """Tensors [1, KV_HEADS, keys, HEAD_DIM]."""

    @property
    def note(self) -> str:
        """The form in use, and how much longer the others took."""
        return f"bfloat16; {self._form} ({self._others})"

    def use_threads(self, threads: int) -> None:
        """Also chooses the fastest form for so many threads."""
        self._torch.set_num_threads(threads)
        seconds = {form: self._seconds(form) for form in self._forms}
        self._form = min(seconds, key=lambda form: seconds[form])
        best = seconds.pop(self._form)
        self._others = ", ".join(f"{form} {other / best:.1f} x" for form, other in seconds.items())

    def run(self, copy: int) -> Any:
        """A tensor [1, HEADS, queries, HEAD_DIM]."""
        return self._forms[self._form](*self._keys_and_values(copy))

    def rows(self, result: Any) -> npt.NDArray[np.float32]:
        """Tokens first."""
        rows: npt.NDArray[np.float32] = result[0].transpose(0, 1).float().numpy()
        return rows

    def _seconds(self, form: str) -> float:
        self._form = form
        times: list[float] = []
        while len(times) < MOST_TRIALS and sum(times) < TRIAL_SECONDS:
            copy = len(times) % self._copies
            begin = time.perf_counter()
            self.run(copy)
            times.append(time.perf_counter() - begin)
        return min(times)

    def _tensor(self, array: Array) -> Any:
        """A tensor on the array's memory: PyTorch does not know NumPy's bfloat16 by name."""
        return self._torch.from_numpy(array.view(np.int16)).view(self._torch.bfloat16)

    def _enable_gqa(self, k: Any, v: Any) -> Any:
        return self._attention(self._q, k, v, is_causal=self._causal, enable_gqa=True)

    def _repeat(self, k: Any, v: Any) -> Any:
        k, v = (tensor.repeat_interleave(HEADS // KV_HEADS, 1) for tensor in (k, v))
        return self._attention(self._q, k, v, is_causal=self._causal)

    def _group_as_rows(self, k: Any, v: Any) -> Any:
        q = self._q.view(1, KV_HEADS, HEADS // KV_HEADS, HEAD_DIM)
        return self._attention(q, k, v).view(1, HEADS, 1, HEAD_DIM)


class TorchContiguous(_TorchAttention):
    """Keys and values already lie as the call wants them: its best case, which paging never has."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._k, self._v = (
            self._tensor(inputs.heads_first(rows, rows.dtype)) for rows in (inputs.k, inputs.v)
        )

    def _keys_and_values(self, copy: int) -> tuple[Any, Any]:
        return self._k[copy : copy + 1], self._v[copy : copy + 1]


class TorchGather(_TorchAttention):
    """Blocks of 16 tokens are taken from a paged cache first."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        tables = inputs.shuffled_tables()
        self._tables = self._torch.from_numpy(tables)
        self._k, self._v = (self._paged(rows, tables) for rows in (inputs.k, inputs.v))

    def _paged(self, rows: Array, tables: npt.NDArray[np.int32]) -> Any:
        cache = np.empty((tables.size, BLOCK_SIZE, KV_HEADS, HEAD_DIM), rows.dtype)
        cache[tables] = rows.reshape(-1, *cache.shape[1:])
        return self._tensor(cache)

    def _keys_and_values(self, copy: int) -> tuple[Any, Any]:
        k, v = (
            cache.index_select(0, self._tables[copy]).view(1, -1, KV_HEADS, HEAD_DIM)
            for cache in (self._k, self._v)
        )
        return k.transpose(1, 2), v.transpose(1, 2)
