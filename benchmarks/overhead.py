"""What small calls cost: against their budgets, and against the NumPy call that they replace.

    python benchmarks/overhead.py

The exit status is 1 where a budget is missed or NumPy is faster.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

# NumPy's own threads only slow products as small as these: both sides run on the calling thread,
# but for the last column. BLAS reads this when it is loaded.
os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import numpy.typing as npt

import quire

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

Array = npt.NDArray[Any]

BATCHES, HEADS, DTYPES = (1, 4, 16, 64), ((8, 8), (8, 2)), ("float32", "float16")
HEAD_DIM, TOKENS, BLOCK_SIZE = 64, 128, 16


def best_microseconds(call: Callable[[], object]) -> float:
    """The fastest of many averages over 2 ms or more: what it costs when nothing disturbs it."""
    calls, runs, spent, best = 1, 0, 0.0, float("inf")
    while spent < 0.2 or runs < 5:
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        taken = time.perf_counter() - begin
        spent += taken
        if taken < 0.002:
            calls *= 2
        else:
            best, runs = min(best, taken / calls), runs + 1
    return best * 1e6


def small_arguments() -> tuple[Array, ...]:
    """Of one sequence of 16 tokens, 8 heads, head size 64."""
    random = np.random.default_rng(0)
    k, v = random.standard_normal((2, 4, 16, 8, 64), np.float32)
    q = random.standard_normal((1, 8, 64), np.float32)
    return q, k, v, np.array([[2]], np.int32), np.array([16], np.int32)


def small_attention(**options: Any) -> float:
    """paged_attention of those."""
    q, k, v, tables, lengths = small_arguments()
    attention: Any = quire.paged_attention
    if options:
        return best_microseconds(lambda: attention(q, k, v, tables, lengths, **options))
    return best_microseconds(lambda: attention(q, k, v, tables, lengths))


def tensors_over_arrays() -> float:
    """What the same call costs more where all five are PyTorch's tensors, and so the result."""
    arrays = small_arguments()
    tensors = [torch.from_numpy(array) for array in arrays]
    attention: Any = quire.paged_attention
    calls = (lambda: attention(*arrays)), (lambda: attention(*tensors))
    # in turns, so that a slow moment of the machine is nobody's alone
    times = [[best_microseconds(call) for call in calls] for _ in range(10)]
    of_arrays, of_tensors = (min(column) for column in zip(*times, strict=True))
    return of_tensors - of_arrays


def small_attend() -> float:
    """attend of one table of 16 tokens, 8 heads, head size 64."""
    pool = quire.BlockPool(4, num_kv_heads=8, head_dim=64, dtype="float32")
    table = quire.BlockTable(pool)
    table.append(*np.random.default_rng(0).standard_normal((2, 16, 8, 64), np.float32))
    q = np.ones((1, 8, 64), np.float32)
    return best_microseconds(lambda: quire.attend(q, [table], layer=0))


def fork_of_long_table() -> float:
    """fork of 32,768 tokens, the fork freed each time outside the clock."""
    pool = quire.BlockPool(2048, num_kv_heads=1, head_dim=8)
    table = quire.BlockTable(pool)
    table.extend(32768)
    times = []
    for _ in range(300):
        begin = time.perf_counter()
        child = table.fork()
        times.append(time.perf_counter() - begin)
        child.free()
    return float(np.median(times)) * 1e6


def append_of_one_token() -> float:
    """append of one token, 8 heads, head size 64."""
    pool = quire.BlockPool(4096, num_kv_heads=8, head_dim=64, dtype="float32")
    table = quire.BlockTable(pool)
    k = np.ones((1, 8, 64), np.float32)

    def append() -> None:
        table.append(k, k)
        if len(table) == 4096:
            table.truncate(0)

    return best_microseconds(append)


def numpy_attention(q: Array, k_cache: Array, v_cache: Array, tables: Array) -> Array:
    """Sequences of one length without Quire: take the blocks, widen them, two products.

    The fastest form that we know: heads stay where they are, as BLAS takes their strides.
    """
    batch, (num_kv_heads, head_dim) = len(tables), k_cache.shape[2:]
    k, v = (
        cache[tables].reshape(batch, -1, num_kv_heads, head_dim).astype(np.float32, copy=False)
        for cache in (k_cache, v_cache)
    )
    scaled = (q * q.dtype.type(head_dim**-0.5)).astype(np.float32, copy=False)
    scores = scaled.reshape(batch, num_kv_heads, -1, head_dim) @ k.transpose(0, 2, 3, 1)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    out: Array = scores @ v.transpose(0, 2, 1, 3)
    return out.reshape(q.shape).astype(q.dtype, copy=False)


def against_numpy(batch: int, heads: tuple[int, int], dtype: str) -> tuple[float, float, float]:
    """Microseconds of NumPy, and of Quire on one thread and on the default number."""
    random = np.random.default_rng(0)
    blocks = TOKENS // BLOCK_SIZE
    shape = (batch * blocks, BLOCK_SIZE, heads[1], HEAD_DIM)
    k, v = (random.standard_normal(shape, np.float32).astype(dtype) for _ in range(2))
    q = random.standard_normal((batch, heads[0], HEAD_DIM), np.float32).astype(dtype)
    tables = random.permutation(batch * blocks).reshape(batch, blocks).astype(np.int32)
    lengths = np.full(batch, TOKENS, np.int32)
    got = quire.paged_attention(q, k, v, tables, lengths)
    np.testing.assert_allclose(got, numpy_attention(q, k, v, tables), atol=2e-3, rtol=2e-3)
    return (
        best_microseconds(lambda: numpy_attention(q, k, v, tables)),
        best_microseconds(lambda: quire.paged_attention(q, k, v, tables, lengths, num_threads=1)),
        best_microseconds(lambda: quire.paged_attention(q, k, v, tables, lengths)),
    )


def main() -> int:
    """Print each figure, its budget and their ratio."""
    missed = 0
    of_tensors = [] if torch is None else [("  tensors over arrays", tensors_over_arrays(), 2.0)]
    print(f"{'':34} {'measured':>10} {'budget':>8} {'of it':>6}")
    for name, measured, budget in (
        ("paged_attention, 16 tokens", small_attention(), 5.0),
        ("  with options by name", small_attention(num_threads=1, causal=True), 5.0),
        *of_tensors,
        ("attend, 16 tokens", small_attend(), 5.0),
        ("fork of 32,768 tokens", fork_of_long_table(), 20.0),
        ("append of one token", append_of_one_token(), 3.0),
    ):
        missed += measured > budget
        print(f"{name:34} {measured:7.2f} us {budget:5.0f} us {measured / budget:6.0%}")
    print(f"\nsequences of {TOKENS} tokens, head size {HEAD_DIM}; in brackets: over NumPy")
    print("dtype    heads  batch       numpy        1 thread   default threads")
    for dtype, heads, batch in itertools.product(DTYPES, HEADS, BATCHES):
        numpy_time, single, default = against_numpy(batch, heads, dtype)
        missed += max(single, default) > numpy_time
        print(
            f"{dtype:8} {heads[0]}, {heads[1]} {batch:6d} {numpy_time:8.0f} us "
            f"{single:7.0f} us ({numpy_time / single:4.1f} x)"
            f"{default:7.0f} us ({numpy_time / default:4.1f} x)",
            flush=True,
        )
    print(f"{missed} beyond their budget, or slower than NumPy")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
