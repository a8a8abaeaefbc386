"""What the tests share: problems of paged attention, with poison in every slot that must not be
read, and a plain NumPy reference in float64."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from sampled_examples import TRIES_ALL_CASES

from quire import _core
from quire.machine_peaks import environment

# PyTorch, which no sanitizer knows, is left out there: its tests are skipped, and say so.
if "QUIRE_SANITIZED" in os.environ:
    sys.modules["torch"] = None  # type: ignore[assignment]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under a sanitizer a case takes five times as long and more: there, of a test of more than
    six cases a sixth is tried, always the same, as what they call is C++ that has tests of its own
    there. QUIRE_ALL_CASES=1 asks for all of them."""
    if TRIES_ALL_CASES:
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    left_out = [
        item
        for of_one_test in cases.values()
        if len(of_one_test) > 6
        for item in of_one_test[1:]
        if zlib.crc32(item.nodeid.encode()) % 6 != 0
    ]
    config.hook.pytest_deselected(items=left_out)
    dropped = set(left_out)
    items[:] = [item for item in items if item not in dropped]


DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@pytest.fixture(params=_core.build_info()["instruction_sets_available"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of this machine, in turn: what the test calls runs on it."""
    with environment(QUIRE_CPU=request.param):
        assert _core.build_info()["instruction_set"] == request.param
        yield str(request.param)


@dataclass
class Problem:
    """Arguments of paged_attention, and the plain keys and values behind them."""

    q: Any
    k_cache: Any
    v_cache: Any
    block_tables: Any
    seq_lens: Any
    cu_seqlens_q: Any
    keys: list[Any] = field(repr=False)
    values: list[Any] = field(repr=False)

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.q, self.k_cache, self.v_cache, self.block_tables, self.seq_lens


def make_problem(
    seq_lens: list[int],
    q_lens: list[int] | None = None,
    *,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 64,
    v_head_dim: int | None = None,
    block_size: int = 16,
    dtypes: tuple[str, str, str] = ("float32", "float32", "float32"),
    layout: str = "NHD",
    magnitude: float = 1.0,
    seed: int = 0,
) -> Problem:
    """Blocks in random order; NaN in every slot and garbage in every table entry not in use."""
    random = np.random.default_rng(seed)
    q_lens = [1] * len(seq_lens) if q_lens is None else q_lens
    v_head_dim = head_dim if v_head_dim is None else v_head_dim
    num_heads, num_kv_heads = heads
    q_dtype, k_dtype, v_dtype = (DTYPES[name] for name in dtypes)
    blocks = [-(-length // block_size) for length in seq_lens]
    num_blocks = sum(blocks) + 2
    order = random.permutation(num_blocks)
    k_cache = np.full((num_blocks, block_size, num_kv_heads, head_dim), np.nan, k_dtype)
    v_cache = np.full((num_blocks, block_size, num_kv_heads, v_head_dim), np.nan, v_dtype)
    tables = np.full((len(seq_lens), max(blocks, default=0) + 1), 99999, np.int32)
    keys, values, used = [], [], 0
    for seq, length in enumerate(seq_lens):
        k = random.standard_normal((length, num_kv_heads, head_dim)).astype(k_dtype)
        v = random.standard_normal((length, num_kv_heads, v_head_dim)).astype(v_dtype)
        ids = order[used : used + blocks[seq]]
        used += blocks[seq]
        tables[seq, : len(ids)] = ids
        for position in range(length):
            slot = ids[position // block_size], position % block_size
            k_cache[slot], v_cache[slot] = k[position], v[position]
        keys.append(k)
        values.append(v)
    q = random.standard_normal((sum(q_lens), num_heads, head_dim)) * magnitude
    if layout == "HND":
        k_cache = np.ascontiguousarray(k_cache.swapaxes(1, 2))
        v_cache = np.ascontiguousarray(v_cache.swapaxes(1, 2))
    return Problem(
        q.astype(q_dtype),
        k_cache,
        v_cache,
        tables,
        np.array(seq_lens, np.int32),
        np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32),
        keys,
        values,
    )


def reference(
    problem: Problem,
    *,
    causal: bool = True,
    scale: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
) -> tuple[Any, Any]:
    """(out, lse) in float64, a head at a time, from the plain keys and values."""
    q = problem.q.astype(np.float64)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    out = np.zeros((*q.shape[:2], problem.v_cache.shape[3]))
    lse = np.full(q.shape[:2], -np.inf)
    for seq, (keys, values) in enumerate(zip(problem.keys, problem.values, strict=True)):
        begin, end = problem.cu_seqlens_q[seq : seq + 2]
        length = len(keys)
        positions = np.arange(length - (end - begin), length)[:, None]
        key_positions = np.arange(length)[None]
        visible = np.ones((end - begin, length), bool)
        if causal:
            visible &= key_positions <= positions
        if sliding_window is not None:
            visible &= key_positions > positions - sliding_window
        for head in range(q.shape[1]):
            kv_head = head // (q.shape[1] // keys.shape[1])
            scores = q[begin:end, head] @ keys[:, kv_head].astype(np.float64).T * scale
            if softcap is not None:
                scores = softcap * np.tanh(scores / softcap)
            if alibi_slopes is not None:
                scores = scores + float(alibi_slopes[head]) * (key_positions - positions)
            for row in range(end - begin):
                seen = visible[row]
                if not seen.any():
                    continue
                logits = scores[row, seen]
                sink = -np.inf if sinks is None else float(sinks[head])
                top = max(logits.max(), sink)
                weights = np.exp(logits - top)
                total = weights.sum() + np.exp(sink - top)
                seen_values = values[seen, kv_head].astype(np.float64)
                out[begin + row, head] = weights @ seen_values / total
                lse[begin + row, head] = top + np.log(total)
    return out, lse
