"""Matrix products with packed weights against a plain read of the weight, and against torch.

    python benchmarks/gemm.py [--quick] [--threads N] [--format F] [--rows M]

Copies of the packed weight fill more memory than the caches hold, and each product takes the next
one, so that it comes from memory. In turn with it as many bytes are read, 64 KiB at a time, and
nothing else; where torch can be imported, it multiplies in bfloat16 with cold copies of its own.
Before that the results are compared with float64. Minima of many short runs, since others may use
the machine too. Rows of the result are written into memory that has been written before.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from quire import _core, ops
from quire.machine_peaks import Machine, cold_bytes
from quire.ops import reference

SHAPES = ((14336, 4096), (4096, 4096))
ROWS = (1, 8, 32, 512)
FORMATS = ("bfloat16", "int8", "int4", "float32")  # of the weight; x is bfloat16 but for float32

Run = Callable[[], float]  # seconds


def timed(product: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    product()
    return time.perf_counter() - begin


def minima(runs: dict[str, Run], seconds: float) -> dict[str, float]:
    """The least of each, all in turn for so long, or five times."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["product"]) < 5:
        for name, run in runs.items():
            times[name].append(run())
    return {name: min(of) for name, of in times.items()}


def require_near(out: Any, x: Any, w: Any, fmt: str, tolerance: float) -> None:
    """The first columns of a product are those of float64, but for the rounding of the result."""
    some = w[:64]
    packed = ops.pack_weight(some, format=fmt)  # type: ignore[arg-type]
    expected = reference.linear(x, packed)
    lengths = np.sqrt((x.astype(np.float64) ** 2) @ (packed.unpack().astype(np.float64).T ** 2))
    wrong = np.abs(out[:, : len(some)].astype(np.float64) - expected)
    if (wrong > tolerance * np.abs(expected) + 5e-6 * lengths).any():
        raise AssertionError(f"{fmt}: a result is off by {wrong.max()}")


def torch_runs(w: Any, copies: int) -> Callable[[Any], Run] | None:
    """What makes a run of torch for some rows, with copies of the weight that it shares."""
    try:
        import torch
    except ImportError:
        return None
    weights = itertools.cycle([torch.from_numpy(w).to(torch.bfloat16) for _ in range(copies)])

    def run_of(x: Any) -> Run:
        rows = torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)
        out = torch.nn.functional.linear(rows, next(weights)).float().numpy()
        require_near(out, x, w, "bfloat16", 2.0**-8)
        return lambda: timed(lambda: torch.nn.functional.linear(rows, next(weights)))

    return run_of


def cases(arguments: argparse.Namespace) -> Iterator[tuple[Any, str]]:
    """Weights, and the formats that they are packed in."""
    for n, k in SHAPES[1:] if arguments.quick else SHAPES:
        w = np.random.default_rng(0).standard_normal((n, k), np.float32)
        for fmt in [arguments.format] if arguments.format else FORMATS:
            yield w, fmt


def measure(w: Any, fmt: str, arguments: argparse.Namespace, machine: Machine) -> None:
    """All numbers of rows with one weight, a line for each."""
    threads = arguments.threads
    first = ops.pack_weight(w, format=fmt)  # type: ignore[arg-type]
    copies = max(2, cold_bytes() // first.nbytes)
    weights = itertools.cycle(
        [first, *(ops.pack_weight(w, format=fmt) for _ in range(copies - 1))]  # type: ignore[arg-type]
    )
    torch_run = torch_runs(w, copies) if fmt == "bfloat16" else None
    dtype = np.float32 if fmt == "float32" else ml_dtypes.bfloat16
    of_one_row = 0.0
    for m in [arguments.rows] if arguments.rows else ROWS:
        x = np.random.default_rng(m).standard_normal((m, w.shape[1]), np.float32).astype(dtype)
        out = np.zeros((m, len(w)), dtype)
        require_near(ops.linear(x, first), x, w, fmt, 2.0**-8 if dtype != np.float32 else 2.0**-23)

        def product(x: Any = x, out: Any = out) -> float:
            return timed(lambda: ops.linear(x, next(weights), out=out, num_threads=threads))

        runs: dict[str, Run] = {
            "product": product,
            "read": lambda: machine.read(first.nbytes, 1 << 16, threads),
        }
        if torch_run:
            runs["torch"] = torch_run(x)
        least = minima(runs, 1.0 if arguments.quick else 3.0)
        seconds = least["product"]
        if m == 1:
            of_one_row = seconds
        line = f"{len(w):5} x {w.shape[1]} {fmt:8} M={m:3}: {seconds * 1e3:8.3f} ms"
        line += f", {least['read'] / seconds:4.0%} of a read"
        line += f", {2e-9 * m * w.size / seconds:6.0f} GFLOP/s"
        if of_one_row:
            line += f", x M=1 {seconds / of_one_row:5.2f}"
        if "torch" in least:
            line += f", torch {least['torch'] * 1e3:8.3f} ms"
        print(line, flush=True)


def main() -> None:
    """Measure and print, a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape, fewer repetitions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", choices=FORMATS, help="that alone")
    parser.add_argument("--rows", type=int, help="that many alone")
    arguments = parser.parse_args()
    try:
        import torch

        torch.set_num_threads(arguments.threads)
    except ImportError:
        pass
    machine = Machine(cold_bytes())
    peak = _core.arithmetic_peak("float32", arguments.threads)
    print(
        f"multiply-adds of float32 vectors: {peak / 1e9:.0f} GFLOP/s, {arguments.threads} threads"
    )
    for w, fmt in cases(arguments):
        measure(w, fmt, arguments, machine)


if __name__ == "__main__":
    main()
