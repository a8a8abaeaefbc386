"""OpenVINO's PagedAttention operator, the one its language model pipelines run on the CPU.

Python reaches it as a private class, without promise: a release that gives it other inputs is
reported as such. It chooses the block size (32) and takes bfloat16 where the processor has
instructions for it, else float32 with a float16 cache: the numbers are exact in either. It writes
the new tokens' keys and values to the cache, which is a small part of its time.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
from peers_cases import HEAD_DIM, HEADS, KV_HEADS, Array, Inputs


class OpenVinoPagedAttention:
    """A model of the one operator, compiled anew for each number of threads."""

    def __init__(self, inputs: Inputs) -> None:
        self._ov: Any = importlib.import_module("openvino")
        self._core = self._ov.Core()
        has_bfloat16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._precision = "bf16" if has_bfloat16 else "f32"
        self._cache_precision = "bf16" if has_bfloat16 else "f16"
        self._inputs = inputs
        self._model = _model(self._ov)
        self._arrays: dict[str, Array] = {}
        self._tables: list[Any] = []
        self._request: Any = None

    @property
    def note(self) -> str:
        """Its precisions."""
        return f"{self._precision}, {self._cache_precision} cache; also writes the new tokens"

    def use_threads(self, threads: int) -> None:
        """Compile for so many threads; the first time, lay out the cache as the model asks."""
        compiled = self._core.compile_model(
            self._model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": self._precision,
                "KV_CACHE_PRECISION": self._cache_precision,
            },
        )
        if not self._arrays:
            self._lay_out(compiled.input("key_cache"))
        self._request = compiled.create_infer_request()
        for name, array in self._arrays.items():
            self._request.set_tensor(name, self._tensor(array))

    def run(self, copy: int) -> Any:
        """The output's memory, which the next run overwrites."""
        self._request.set_tensor("block_indices", self._tables[copy])
        self._request.infer()
        return self._request.get_output_tensor(0).data

    def rows(self, result: Any) -> npt.NDArray[np.float32]:
        """A copy."""
        return np.array(result, np.float32).reshape(-1, HEADS, HEAD_DIM)

    def _tensor(self, array: Array) -> Any:
        if array.dtype.name == "bfloat16":  # it does not know NumPy's by name
            return self._ov.Tensor(array.view(np.uint16), array.shape, self._ov.Type.bf16)
        return self._ov.Tensor(array, shared_memory=True)

    def _lay_out(self, cache: Any) -> None:
        """The cache is [blocks, KV_HEADS, block size, HEAD_DIM], of a type the model names."""
        inputs, case = self._inputs, self._inputs.case
        block_size = int(cache.partial_shape[2].get_length())
        tables = inputs.shuffled_tables(block_size)
        self._tables = [self._tensor(table) for table in tables]
        dtype = inputs.k.dtype if self._cache_precision == "bf16" else np.dtype(np.float16)

        def paged(rows: Array) -> Array:
            out = np.empty((tables.size, KV_HEADS, block_size, HEAD_DIM), dtype)
            blocks = rows.astype(dtype).reshape(-1, block_size, KV_HEADS, HEAD_DIM)
            out[tables] = blocks.swapaxes(1, 2)
            return out

        def new_tokens(rows: Array) -> Array:
            return rows[-case.queries :].astype(np.float32).reshape(case.queries, -1)

        self._arrays = {
            "query": new_tokens(inputs.q),
            "key": new_tokens(inputs.k),
            "value": new_tokens(inputs.v),
            "key_cache": paged(inputs.k),
            "value_cache": paged(inputs.v),
            "past_lens": np.array([case.keys - case.queries], np.int32),
            "subsequence_begins": np.array([0, case.queries], np.int32),
            "block_indices_begins": np.array([0, tables.shape[1]], np.int32),
            "max_context_len": np.array(case.keys, np.int32),
        }


def _model(ov: Any) -> Any:
    """The operator's 28 inputs in order: parameters where a case differs, else constants.

    What Quire's case has not (ALiBi, rotation, sparse attention, eviction, sinks, biases) is empty.
    """
    ops = importlib.import_module("openvino.opset13")
    operator = importlib.import_module("openvino.op")._PagedAttentionExtension

    parameters = []

    def parameter(name: str, dtype: str, shape: list[int]) -> Any:
        node = ops.parameter(ov.PartialShape(shape), getattr(ov.Type, dtype), name=name)
        node.output(0).get_tensor().set_names({name})
        parameters.append(node)
        return node

    def constant(value: float, dtype: type[np.generic]) -> Any:
        return ops.constant(np.array(value, dtype))

    def nothing(dtype: type[np.generic]) -> Any:
        return ops.constant(np.zeros(0, dtype))

    nodes = [
        parameter("query", "f32", [-1, HEADS * HEAD_DIM]),
        parameter("key", "f32", [-1, KV_HEADS * HEAD_DIM]),
        parameter("value", "f32", [-1, KV_HEADS * HEAD_DIM]),
        parameter("key_cache", "dynamic", [-1, -1, -1, -1]),
        parameter("value_cache", "dynamic", [-1, -1, -1, -1]),
        parameter("past_lens", "i32", [-1]),
        parameter("subsequence_begins", "i32", [-1]),
        parameter("block_indices", "i32", [-1]),
        parameter("block_indices_begins", "i32", [-1]),
        constant(HEAD_DIM**-0.5, np.float32),  # scale
        constant(0, np.int32),  # sliding window
        nothing(np.float32),  # ALiBi slopes
        parameter("max_context_len", "i32", []),
        constant(0, np.int32),  # score aggregation window
        nothing(np.int32),  # rotation: blocks, deltas, table
        nothing(np.int32),
        nothing(np.float32),
        nothing(np.float32),  # sparse attention: threshold, block size, stride
        constant(64, np.int32),
        constant(8, np.int32),
        nothing(np.float32),  # sinks
        constant(0, np.int32),  # eviction: first token, sizes, blocks, where they begin
        nothing(np.int32),
        nothing(np.int32),
        nothing(np.int32),
        nothing(np.int32),  # token types
        nothing(np.uint8),  # bias between queries, where it begins
        nothing(np.int32),
    ]
    attention = operator([node.output(0) for node in nodes])
    shape = {"num_k_heads": KV_HEADS, "num_v_heads": KV_HEADS}
    shape |= {"k_head_size": HEAD_DIM, "v_head_size": HEAD_DIM}
    for name, size in shape.items():
        attention.get_rt_info()[name] = size
    return ov.Model([attention.output(0)], parameters)
