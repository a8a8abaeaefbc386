"""Matrix products with packed weights against a plain read of the weight, and the vectors' peak.

    python benchmarks/gemm.py [--quick]

One thread. Copies of the packed weight fill more memory than the caches hold, and each product
takes the next one, so that it comes from memory; in turn with it as many bytes are read and nothing
else. Medians. Where torch can be imported its linear in bfloat16 has its own cold copies.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from quire import _core, ops
from quire.machine_peaks import Machine, cold_bytes

SHAPES = ((14336, 4096), (4096, 4096))
ROWS = (1, 8, 32, 512)
FORMATS = ("bfloat16", "int8", "int4", "float32")  # of the weight; x is bfloat16 but for float32

Product = Callable[[Any, Any], object]  # of rows and a weight


def medians(
    product: Product, x: Any, weights: Sequence[Any], read: Callable[[], float], times: int
) -> tuple[float, float]:
    """Seconds of a product, each with the next weight, and of a read in turn with it."""
    products, reads = [], []
    for i in range(times):
        begin = time.perf_counter()
        product(x, weights[i % len(weights)])
        products.append(time.perf_counter() - begin)
        reads.append(read())
    return float(np.median(products)), float(np.median(reads))


def report(name: str, shape: tuple[int, int, int], seconds: float, read: float) -> None:
    """One line: how near to a plain read, and how much arithmetic."""
    m, n, k = shape
    rate = 2e-9 * m * n * k / seconds
    print(
        f"{n:5} x {k} {name:14} M={m:3}: {seconds * 1e3:8.3f} ms, {read / seconds:4.0%} of a read, "
        f"{rate:6.0f} GFLOP/s",
        flush=True,
    )


def measure_torch(w: Any, rows: Sequence[int], copies: int, times: int, machine: Machine) -> None:
    """The same of torch, where it is installed."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
    weights = [torch.from_numpy(w).to(torch.bfloat16) for _ in range(copies)]
    for m in rows:
        x = torch.ones((m, w.shape[1]), dtype=torch.bfloat16)

        def read() -> float:
            return machine.read(2 * w.size, 1 << 20, 1)

        seconds, read_seconds = medians(torch.nn.functional.linear, x, weights, read, times)
        report("torch bfloat16", (m, *w.shape), seconds, read_seconds)


def measure_format(
    w: Any, fmt: str, rows: Sequence[int], copies: int, times: int, machine: Machine
) -> None:
    """All numbers of rows with one weight."""
    weights = [ops.pack_weight(w, format=fmt) for _ in range(copies)]  # type: ignore[arg-type]
    dtype = np.float32 if fmt == "float32" else ml_dtypes.bfloat16
    for m in rows:
        x = np.random.default_rng(m).standard_normal((m, w.shape[1]), np.float32).astype(dtype)

        def product(x: Any, weight: Any) -> object:
            return ops.linear(x, weight, num_threads=1)

        def read() -> float:
            return machine.read(weights[0].nbytes, 1 << 20, 1)

        product(x, weights[0])
        repeated = times if m < 512 else max(3, times // 6)
        report(fmt, (m, *w.shape), *medians(product, x, weights, read, repeated))


def main() -> None:
    """Measure and print, a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape, fewer repetitions")
    quick = parser.parse_args().quick
    machine = Machine(cold_bytes())
    times = 7 if quick else 31
    peak = _core.arithmetic_peak("float32", 1)
    print(f"multiply-adds of float32 vectors: {peak / 1e9:.0f} GFLOP/s, 1 thread")
    for n, k in SHAPES[1:] if quick else SHAPES:
        w = np.random.default_rng(0).standard_normal((n, k), np.float32)
        for fmt in FORMATS:
            num_bytes = ops.pack_weight(w[:32], format=fmt).nbytes * n // 32  # type: ignore[arg-type]
            measure_format(w, fmt, ROWS, max(2, cold_bytes() // num_bytes), times, machine)
        measure_torch(w, ROWS, max(2, cold_bytes() // (2 * n * k)), times, machine)


if __name__ == "__main__":
    main()
