"""Operators on rows, against a plain copy of as many bytes in the same minutes, and others.

    python benchmarks/operators.py [--quick] [--threads N]

Arrays of rows are larger than the caches, and a copy of what an operator reads and writes is the
least that its traffic costs. Minima of many short runs in turn, since others may use the machine
too; of one thread the time is that of its processor, which others stretch less. Results are written
into memory that has been written before, and compared with float64 first, on some rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from quire import ops
from quire.machine_peaks import cold_bytes
from quire.ops import reference

Run = Callable[[], object]


def minima(runs: dict[str, Run], seconds: float, threads: int) -> dict[str, float]:
    """The least seconds of each, all in turn for so long, or five times."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    least = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds
    turns = 0
    while time.perf_counter() < end or turns < 5:
        for name, run in runs.items():
            begin = clock()
            run()
            least[name] = min(least[name], clock() - begin)
        turns += 1
    return least


def require_near(out: Any, expected: Any, dtype: Any) -> None:
    """But for the rounding to the dtype, and errors of float32 arithmetic."""
    rounding = 2.0**-8 if dtype != np.float32 else 2e-6
    wrong = np.abs(out.astype(np.float64) - expected)
    if (wrong > rounding * np.abs(expected) + 1e-5).any():
        raise AssertionError(f"a result is off by {wrong.max()}")


def cases(rows: int, dtype: Any, threads: int) -> dict[str, tuple[Run, Run, int]]:
    """A run of each operator, a check of its first rows, and how many arrays it goes through."""
    random = np.random.default_rng(0)
    x, y, out, sums = (
        random.standard_normal((rows, 4096), np.float32).astype(dtype) for _ in "abcd"
    )
    weight = random.standard_normal(4096, np.float32).astype(dtype)
    heads, turned = x.reshape(rows, 32, 128), out.reshape(rows, 32, 128)
    positions = np.arange(rows)
    few = slice(0, 3)
    n: dict[str, Any] = {"num_threads": threads}

    def check(operator: str, *arguments: Any, **options: Any) -> None:
        got = getattr(ops, operator)(*arguments, **options)
        require_near(got, getattr(reference, operator)(*arguments, **options), dtype)

    return {
        "rms_norm": (
            lambda: ops.rms_norm(x, weight, out=out, **n),
            lambda: check("rms_norm", x[few], weight),
            2,
        ),
        "rms_norm, residual": (
            lambda: ops.rms_norm(x, weight, residual=y, out=out, residual_out=sums, **n),
            lambda: check("rms_norm", x[few], weight),
            4,
        ),
        "rope": (
            lambda: ops.rope(heads, positions, out=turned, **n),
            lambda: check("rope", heads[few], positions[few]),
            2,
        ),
        "rope, in place": (
            lambda: ops.rope(turned, positions, out=turned, **n),
            lambda: check("rope", heads[few], positions[few]),
            2,
        ),
        "swiglu": (
            lambda: ops.swiglu(x, y, out=out, **n),
            lambda: check("swiglu", x[few], y[few]),
            3,
        ),
        "swiglu, gelu": (
            lambda: ops.swiglu(x, y, activation="gelu", out=out, **n),
            lambda: check("swiglu", x[few], y[few], activation="gelu"),
            3,
        ),
    }


def measure_sampling(seconds: float, threads: int) -> None:
    """A row of 248,320 logits, by filters."""
    logits = np.random.default_rng(0).standard_normal((1, 248_320), np.float32) * 3
    filters: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {},
        {"min_p": 0.05},
        {"top_k": 50},
        {"top_p": 0.9},
        {"top_k": 50, "top_p": 0.9, "min_p": 0.05},
    ]
    for options in filters:
        got = ops.sample(logits, seed=0, position=1, **options)[0]
        if got != reference.sample(logits[0], seed=0, position=1, **options):
            raise AssertionError(f"another token than float64's with {options}")
        run = partial(ops.sample, logits, seed=0, position=1, num_threads=threads, **options)
        least = minima({"run": run}, seconds, threads)["run"]
        print(f"sample {options}: {least * 1e3:.2f} ms a row of 248,320", flush=True)


def measure_states(seconds: float, threads: int) -> None:
    """The gated delta rule and its convolution with shapes of Qwen3-Next."""
    random = np.random.default_rng(0)
    for tokens in (1, 512):
        q, k = (random.standard_normal((tokens, 16, 128), np.float32) / 11 for _ in range(2))
        v = random.standard_normal((tokens, 32, 128), np.float32)
        g, beta = -random.random((tokens, 32)), random.random((tokens, 32))
        arrays = (q, k, v, g.astype(np.float32), beta.astype(np.float32))
        state = np.zeros((1, 32, 128, 128), np.float32)
        x = random.standard_normal((tokens, 8192), np.float32)
        weight, last = random.standard_normal((8192, 4), np.float32), np.zeros((1, 8192, 3))
        last = last.astype(np.float32)
        runs: dict[str, Run] = {
            "gated_delta_rule": partial(
                ops.gated_delta_rule, *arrays, state=state, num_threads=threads
            ),
            "causal_conv1d": partial(ops.causal_conv1d, x, weight, state=last, num_threads=threads),
        }
        for name, least in minima(runs, seconds, threads).items():
            print(f"{name}, {tokens} tokens: {least * 1e6 / tokens:.1f} us a token", flush=True)


def main() -> None:
    """Measure and print, a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    seconds = 0.5 if arguments.quick else 3.0
    measure_sampling(seconds, arguments.threads)
    measure_states(seconds, arguments.threads)
    for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)):
        rows = max(1024, int(cold_bytes()) // 4 // (4096 * dtype.itemsize))
        source = np.ones((rows, 4096), dtype)
        target = np.zeros_like(source)
        bytes_of_copy = 2 * source.nbytes
        for name, (run, check, arrays) in cases(rows, dtype, arguments.threads).items():
            check()
            least = minima(
                {"run": run, "copy": partial(np.copyto, target, source)},
                seconds,
                arguments.threads,
            )
            speed = arrays * source.nbytes / least["run"]
            copy = bytes_of_copy / least["copy"]
            line = f"{dtype.name:8} {name:18} [{rows}, 4096]: {least['run'] * 1e3:7.2f} ms"
            print(f"{line}, {speed / 1e9:5.1f} GB/s, {speed / copy:4.0%} of a copy", flush=True)


if __name__ == "__main__":
    main()
