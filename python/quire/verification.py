"""quire.verify: paged attention proven against the float64 reference, one decode step at a time."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quire._core import attend, build_info, last_implementation
from quire.report import RMS_BAR, ImplementationResult, VerifyReport
from quire.scattered_cache import ScatteredCache
from quire.trace import Synthetic, Trace, load_trace, shipped_trace

__all__ = ["VerifyReport", "verify"]

Name = Literal["fused", "gather", "dense"]
# dense reads the same cache through the same tables; NumPy reads plain copies, and so shows an
# error that all three would share.
AGAINST: dict[Name, str] = {"fused": "dense", "gather": "dense", "dense": "numpy"}


def verify(
    steps: int = 200,
    *,
    trace: str | PathLike[str] | Trace | Synthetic | None = None,
    layer: int | None = None,
    batch: int = 1,
    block_size: int = 16,
    dtype: str = "float16",
    sliding_window: int | None = None,
    softcap: float | None = None,
    forks: bool = False,
    truncations: bool = False,
    seed: int = 0,
    num_threads: int | None = None,
    bar: float = RMS_BAR,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Compare fused and gather with the float64 reference, a decode step at a time.

    Each step appends one token to every table, whose blocks are scattered over a pool full of NaN,
    and attends with that token's query. The reference itself, dense, is compared with plain NumPy
    over plain copies of the keys and values, and after each step the cache is compared with these
    copies bit for bit.

    Args:
        steps: decode steps: the last tokens of the trace. Those before them are context.
        trace: an npz file (quire.trace.load_trace says what it holds); a quire.trace.Trace;
            a quire.trace.Synthetic for random numbers; None: the trace of a real model that ships
            with Quire, 2048 tokens in float16.
        layer: of a file with several, or of the shipped trace (1 or 4).
        batch: sequences. Each has a shorter context than the one before, down to about half, and
            values of its own: random ones, or those of the trace with their channels rotated.
        block_size: tokens of a block.
        dtype: of the cache: float32, float16 or bfloat16. float16 holds the shipped trace as it is.
        sliding_window, softcap: as in paged_attention.
        forks: fork tables between steps, each half of the pair writing first in turn.
        truncations: write wrong tokens between steps and roll them back.
        seed: of everything random.
        num_threads: None: as paged_attention.
        bar: that every RMS must stay below. 5e-3 leaves room for bfloat16 products, and shows what
            is wrong with the keys that matter or at many steps. One block of 16 tokens missed at
            one step may change a real model's output by less; where sums run in float32, as with
            the default dtype, 1e-5 holds and shows most of these.
        progress: called with (steps done, steps).

    Returns:
        A VerifyReport: .rms [steps], .max_abs, .passed, .plot(); print() shows a table.

    Raises:
        ValueError: a size out of range, or a file that is no trace. TypeError: a wrong type or
        dtype. OSError: no such file.

    Example:
        >>> quire.verify(20).passed
        True
    """
    steps, batch, block_size, seed = (
        _integer(name, value, least)
        for name, value, least in (
            ("steps", steps, 1),
            ("batch", batch, 1),
            ("block_size", block_size, 1),
            ("seed", seed, 0),
        )
    )
    if not 0 < bar < np.inf:
        raise ValueError(f"verify: bar: got {bar}, expected a positive number")
    traces = _sequences(trace, layer, steps, batch, seed)
    cache = ScatteredCache(traces, block_size=block_size, dtype=dtype, seed=seed)
    masks: dict[str, Any] = {"sliding_window": sliding_window, "softcap": softcap}

    rms, max_abs, seconds = ({name: np.zeros(steps) for name in AGAINST} for _ in range(3))
    exact = np.zeros(steps, np.bool_)
    for step in range(steps):
        if forks and step % 3 == 1:
            cache.fork()
        if truncations and step % 5 == 2:
            cache.roll_back()
        cache.append(step)
        q = cache.queries(step)
        outs: dict[str, npt.NDArray[Any]] = {}
        for name in AGAINST:
            begin = time.perf_counter()
            outs[name] = attend(
                q, cache.tables, implementation=name, num_threads=num_threads, **masks
            )
            seconds[name][step] = time.perf_counter() - begin
            if last_implementation() != name:
                raise RuntimeError(
                    f"verify: {last_implementation()} ran where {name} was asked for"
                )
        outs["numpy"] = cache.plain(step, **masks)
        for name, against in AGAINST.items():
            rms[name][step], max_abs[name][step] = _distance(outs[name], outs[against])
        exact[step] = cache.contents_exact()
        if progress is not None:
            progress(step + 1, steps)
    cache.pool.check()

    first, info = traces[0], build_info()
    settings = {
        "steps": steps,
        "context": cache.sequences[0].first_step,
        "batch": batch,
        "heads": [first.q.shape[1], first.k.shape[1]],
        "head_dims": [first.k.shape[2], first.v.shape[2]],
        "block_size": block_size,
        "dtype": str(cache.pool.dtype),
        **masks,
        "forks": forks,
        "truncations": truncations,
        "seed": seed,
        "num_threads": info["num_threads"] if num_threads is None else num_threads,
        "copies_on_write": cache.pool.stats().copies_on_write,
        "version": info["version"],
        "instruction_set": info["instruction_set"],
    }
    results: dict[str, ImplementationResult] = {
        name: ImplementationResult(name, against, bar, rms[name], max_abs[name], seconds[name])
        for name, against in AGAINST.items()
    }
    return VerifyReport(first.name, settings, bar, results, exact)


def _integer(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"verify: {name}: got {type(value).__name__}, expected an integer"
        ) from None
    if number < least:
        raise ValueError(f"verify: {name}: got {number}, expected at least {least}")
    return number


def _sequences(
    trace: str | PathLike[str] | Trace | Synthetic | None,
    layer: int | None,
    steps: int,
    batch: int,
    seed: int,
) -> list[Trace]:
    """The sequences of the batch, so different that none can pass for another."""
    if layer is not None and isinstance(trace, Trace | Synthetic):
        raise ValueError(f"verify: layer: got {layer}, expected None: the trace is no file")
    if isinstance(trace, Synthetic):
        whole = [trace.trace(steps, (seed, i)) for i in range(batch)]
    else:
        if isinstance(trace, Trace):
            loaded = trace
        elif trace is None:
            loaded = shipped_trace(layer=layer)
        else:
            loaded = load_trace(trace, layer=layer)
        whole = [loaded.decode(steps)] * batch
    context = len(whole[0].k) - steps
    return [one.variant(i * context // (2 * batch), i) for i, one in enumerate(whole)]


def _distance(out: npt.NDArray[Any], expected: npt.NDArray[Any]) -> tuple[float, float]:
    """The largest RMS of a sequence, and the largest difference; NaN where there is one."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(out.astype(np.float64) - expected)
        rms = np.sqrt(np.mean(difference**2, axis=(1, 2)))
    return float(np.max(rms)), float(np.max(difference))
