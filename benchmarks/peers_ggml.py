"""llama.cpp's attention: ggml_flash_attn_ext, a graph of the one operation, through ggml-python.

float32 queries, float16 keys and values: its fast paths (keys split among threads for one query,
tiles for many) take no bfloat16. The numbers are the same, and so are the bytes. Keys and values
are contiguous for each head; the causal mask of a prefill is made ahead.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
from peers_cases import HEAD_DIM, HEADS, Array, Inputs

CONTEXT_BYTES = 1 << 20  # tensors and the graph; their data is NumPy's
SUCCESS = 0


class GgmlFlashAttention:
    """One graph; a run points it at another copy."""

    def __init__(self, inputs: Inputs) -> None:
        self._ggml: Any = importlib.import_module("ggml")
        case = inputs.case
        self._q = np.ascontiguousarray(inputs.q.astype(np.float32).swapaxes(0, 1))
        self._k, self._v = (inputs.heads_first(x, np.float16) for x in (inputs.k, inputs.v))
        self._out = np.empty((case.queries, HEADS, HEAD_DIM), np.float32)
        self._work = np.empty(0, np.uint8)
        self._plan: Any = None

        parameters = self._ggml.ggml_init_params(CONTEXT_BYTES, None, no_alloc=True)
        self._context = self._ggml.ggml_init(parameters)
        q = self._tensor(self._q)
        self._k_tensor, self._v_tensor = self._tensor(self._k[0]), self._tensor(self._v[0])
        mask = None
        if not case.decode:
            hidden = np.triu(np.ones((case.queries, case.keys), bool), case.keys - case.queries + 1)
            self._mask = np.where(hidden, np.float16(-np.inf), np.float16(0))
            mask = self._tensor(self._mask)
        out = self._ggml.ggml_flash_attn_ext(
            self._context, q, self._k_tensor, self._v_tensor, mask, HEAD_DIM**-0.5, 0.0, 0.0
        )
        out.contents.data = self._out.ctypes.data
        self._graph = self._ggml.ggml_new_graph(self._context)
        self._ggml.ggml_build_forward_expand(self._graph, out)

    def __del__(self) -> None:
        if context := getattr(self, "_context", None):
            self._ggml.ggml_free(context)

    @property
    def note(self) -> str:
        """Its precisions."""
        return "float32 queries, float16 keys and values, contiguous"

    def use_threads(self, threads: int) -> None:
        """Plan for so many threads."""
        self._plan = self._ggml.ggml_graph_plan(self._graph, threads, None)
        self._work = np.empty(max(1, self._plan.work_size), np.uint8)
        self._plan.work_data = self._work.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))

    def run(self, copy: int) -> Any:
        """The output's memory, which the next run overwrites."""
        self._k_tensor.contents.data = self._k[copy].ctypes.data
        self._v_tensor.contents.data = self._v[copy].ctypes.data
        status = self._ggml.ggml_graph_compute(self._graph, ctypes.byref(self._plan))
        if status != SUCCESS:
            raise RuntimeError(f"ggml_graph_compute: status {status}")
        return self._out

    def rows(self, result: Any) -> npt.NDArray[np.float32]:
        """A copy."""
        return np.array(result, np.float32)

    def _tensor(self, array: Array) -> Any:
        """A tensor on the array's memory; ggml counts dimensions from the innermost."""
        types = {"float32": self._ggml.GGML_TYPE_F32, "float16": self._ggml.GGML_TYPE_F16}
        shape = (1, *array.shape)[-3:]
        tensor = self._ggml.ggml_new_tensor_3d(
            self._context, types[array.dtype.name], *reversed(shape)
        )
        tensor.contents.data = array.ctypes.data
        return tensor
