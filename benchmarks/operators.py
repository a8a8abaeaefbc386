"""Operators that read and write rows, against a plain copy of as many bytes in the same minutes.

    python benchmarks/operators.py [--quick] [--threads N]

Arrays are larger than the caches, and copies go through the same number of arrays: a copy of what
an operator reads and writes is the least that its traffic costs. Minima of many short runs in turn,
since others may use the machine too. Results are written into memory that has been written before,
and compared with float64 first, on some rows.
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


def minima(runs: dict[str, Run], seconds: float) -> dict[str, float]:
    """The least seconds of each, all in turn for so long, or five times."""
    least = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds
    turns = 0
    while time.perf_counter() < end or turns < 5:
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            least[name] = min(least[name], time.perf_counter() - begin)
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

    def check(operator: str, *arguments: Any) -> None:
        got = getattr(ops, operator)(*arguments)
        require_near(got, getattr(reference, operator)(*arguments), dtype)

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
            lambda: check("swiglu", x[few], y[few]),
            3,
        ),
    }


def main() -> None:
    """Measure and print, a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)):
        rows = max(1024, int(cold_bytes()) // 4 // (4096 * dtype.itemsize))
        source = np.ones((rows, 4096), dtype)
        target = np.zeros_like(source)
        bytes_of_copy = 2 * source.nbytes
        for name, (run, check, arrays) in cases(rows, dtype, arguments.threads).items():
            check()
            least = minima(
                {"run": run, "copy": partial(np.copyto, target, source)},
                0.5 if arguments.quick else 3.0,
            )
            speed = arrays * source.nbytes / least["run"]
            copy = bytes_of_copy / least["copy"]
            line = f"{dtype.name:8} {name:18} [{rows}, 4096]: {least['run'] * 1e3:7.2f} ms"
            print(f"{line}, {speed / 1e9:5.1f} GB/s, {speed / copy:4.0%} of a copy", flush=True)


if __name__ == "__main__":
    main()
