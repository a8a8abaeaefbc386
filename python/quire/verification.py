"""quire.verify: paged attention proven against the float64 reference, one decode step at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quire._core import BlockPool, BlockTable, attend
from quire.trace import Trace, load_trace, shipped_trace, synthetic_trace

RMS_BAR = 5e-3
COMPARED: tuple[Literal["fused", "gather"], ...] = ("fused", "gather")


@dataclass(frozen=True)
class ImplementationResult:
    """How one implementation fared: arrays of [steps]."""

    name: str
    rms: npt.NDArray[np.float64]
    max_abs: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]

    @property
    def passed(self) -> bool:
        """Every step's RMS is below the bar; a NaN is not."""
        return bool(np.all(self.rms < RMS_BAR))

    @property
    def worst_step(self) -> int:
        """The step with the largest RMS, or the first that is NaN."""
        return int(np.argmax(np.where(np.isnan(self.rms), np.inf, self.rms)))


@dataclass(frozen=True)
class VerifyReport:
    """What verify found; rms and max_abs are those of the fused implementation."""

    source: str
    settings: dict[str, Any]
    results: dict[str, ImplementationResult]
    dense_seconds: npt.NDArray[np.float64]
    contents_exact: bool

    @property
    def rms(self) -> npt.NDArray[np.float64]:
        """Root mean square difference from dense, [steps]."""
        return self.results["fused"].rms

    @property
    def max_abs(self) -> float:
        """The largest difference from dense of any value at any step."""
        return float(np.max(self.results["fused"].max_abs))

    @property
    def passed(self) -> bool:
        """Every RMS of every implementation < 5e-3, and the cache held exactly what was written."""
        return self.contents_exact and all(result.passed for result in self.results.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {
            "source": self.source,
            "settings": self.settings,
            "bar": RMS_BAR,
            "passed": self.passed,
            "contents_exact": self.contents_exact,
            "dense_seconds": self.dense_seconds.tolist(),
            "implementations": {
                name: {
                    "passed": result.passed,
                    "rms": [float(x) if np.isfinite(x) else None for x in result.rms],
                    "max_abs": [float(x) if np.isfinite(x) else None for x in result.max_abs],
                    "seconds": result.seconds.tolist(),
                    "worst_step": result.worst_step,
                }
                for name, result in self.results.items()
            },
        }

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """RMS per step on a log axis, with the bar. Needs matplotlib, the extra "plot".

        Args:
            path: of a picture to write; None: only return the figure.

        Returns:
            The matplotlib Figure.
        """
        from quire.plotting import plot_report

        return plot_report(self, path)


class _Run:
    """Tables of one pool that hold a trace's tokens, and a plain copy of what they should hold."""

    def __init__(self, trace: Trace, batch: int, block_size: int, dtype: str, seed: int) -> None:
        steps, tokens = len(trace.q), len(trace.k)
        self.trace = trace
        self.context = tokens - steps
        self.random = np.random.default_rng(seed)
        blocks_each = -(-tokens // block_size) + 1
        self.pool = BlockPool(
            2 * batch * blocks_each + 8,
            block_size=block_size,
            num_kv_heads=trace.k.shape[1],
            head_dim=trace.k.shape[2],
            v_head_dim=trace.v.shape[2],
            dtype=dtype,
        )
        self._poison_and_scatter()
        self.tables = [BlockTable(self.pool) for _ in range(batch)]
        for table in self.tables:
            table.append(trace.k[: self.context], trace.v[: self.context])
        self.expected_k = trace.k.astype(self.pool.dtype)
        self.expected_v = trace.v.astype(self.pool.dtype)

    def _poison_and_scatter(self) -> None:
        """NaN wherever nothing is written, and free blocks in random order."""
        self.pool.k_cache()[...] = np.nan
        self.pool.v_cache()[...] = np.nan
        ids = self.pool.allocate(self.pool.num_blocks)
        self.pool.release(self.random.permutation(ids))

    def append(self, step: int) -> None:
        token = slice(self.context + step, self.context + step + 1)
        for table in self.tables:
            table.append(self.trace.k[token], self.trace.v[token])

    def disturb(self, step: int, forks: bool, truncations: bool) -> None:
        """Between two steps: a table is replaced by its fork, or rolled back and written again."""
        which = int(self.random.integers(len(self.tables)))
        table = self.tables[which]
        if forks and step % 3 == 0:
            self.tables[which] = table.fork()
            # the old owner writes on into the shared block, which must not show in the fork
            garbage = np.full((1, *self.trace.k.shape[1:]), 1e4, np.float32)
            table.append(garbage, np.full((1, *self.trace.v.shape[1:]), 1e4, np.float32))
            table.free()
            table = self.tables[which]
        if truncations and step % 5 == 0:
            end = len(table)
            begin = max(0, end - int(self.random.integers(1, 40)))
            table.truncate(begin)
            table.append(self.trace.k[begin:end], self.trace.v[begin:end])

    def contents_exact(self) -> bool:
        for table in self.tables:
            k, v = table.gather()
            if k.tobytes() != self.expected_k[: len(table)].tobytes():
                return False
            if v.tobytes() != self.expected_v[: len(table)].tobytes():
                return False
        return True


def verify(
    steps: int = 200,
    *,
    trace: str | PathLike[str] | Trace | None = None,
    layer: int | None = None,
    synthetic: bool = False,
    heads: tuple[int, int] = (8, 2),
    head_dim: int = 64,
    v_head_dim: int | None = None,
    context: int = 1848,
    batch: int = 1,
    block_size: int = 16,
    dtype: str = "float16",
    forks: bool = False,
    truncations: bool = False,
    seed: int = 0,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Compare fused and gather with the float64 reference, a decode step at a time.

    Each step appends one token to every table, whose blocks are scattered over a pool full of NaN,
    and attends with that token's query. After the last step the cache is compared bit for bit with
    what was written.

    Args:
        steps: decode steps, at most the queries of the trace.
        trace: an npz file (see quire.trace.load_trace), or None: the trace of a real model that
            ships with Quire, in float16.
        layer: of a file with several.
        synthetic: random queries, keys and values instead, of the sizes that follow.
        heads: (query heads, KV heads). head_dim, v_head_dim: head sizes. context: tokens before
            the first step.
        batch: sequences, all of the same tokens in different blocks.
        block_size: tokens of a block. dtype: of the pool.
        forks, truncations: fork tables and roll them back between steps.
        seed: of everything random. num_threads: of fused and gather.
        progress: called with (steps done, steps).

    Returns:
        A VerifyReport.

    Raises:
        ValueError: a size out of range or a file that is no trace. TypeError: a dtype.

    Example:
        >>> quire.verify(20).passed
        True
    """
    if steps < 1 or batch < 1 or context < 0:
        raise ValueError(
            f"verify: steps, batch, context: got {steps}, {batch}, {context}, "
            "expected at least 1, 1 and 0"
        )
    if synthetic and trace is not None:
        raise ValueError("verify: trace: got a trace, expected None with synthetic=True")
    if synthetic:
        dims = (head_dim, head_dim if v_head_dim is None else v_head_dim)
        source = synthetic_trace(
            context=context, steps=steps, heads=heads, head_dims=dims, seed=seed
        )
    else:
        source = _given_trace(trace, layer, steps)
    if steps > len(source.q):
        raise ValueError(f"verify: steps: got {steps}, expected at most {len(source.q)}")
    first = len(source.k) - len(source.q)  # position of the first query
    source = Trace(
        source.name, source.q[:steps], source.k[: first + steps], source.v[: first + steps]
    )

    run = _Run(source, batch, block_size, dtype, seed)
    names: tuple[Literal["fused", "gather", "dense"], ...] = (*COMPARED, "dense")
    seconds = {name: np.zeros(steps) for name in names}
    rms = {name: np.zeros(steps) for name in COMPARED}
    max_abs = {name: np.zeros(steps) for name in COMPARED}
    for step in range(steps):
        if step:
            run.disturb(step, forks, truncations)
        run.append(step)
        q = np.repeat(source.q[step : step + 1], batch, axis=0).astype(np.float32)
        outs = {}
        for name in names:
            begin = time.perf_counter()
            outs[name] = attend(q, run.tables, implementation=name, num_threads=num_threads)
            seconds[name][step] = time.perf_counter() - begin
        for name in COMPARED:
            difference = outs[name].astype(np.float64) - outs["dense"]
            rms[name][step] = np.sqrt(np.mean(difference**2))
            max_abs[name][step] = np.max(np.abs(difference))
        if progress is not None:
            progress(step + 1, steps)
    run.pool.check()

    settings = {
        "steps": steps,
        "context": run.context,
        "batch": batch,
        "heads": [source.q.shape[1], source.k.shape[1]],
        "head_dims": [source.k.shape[2], source.v.shape[2]],
        "block_size": block_size,
        "dtype": dtype,
        "forks": forks,
        "truncations": truncations,
        "seed": seed,
        "copies_on_write": run.pool.stats().copies_on_write,
    }
    results: dict[str, ImplementationResult] = {
        name: ImplementationResult(name, rms[name], max_abs[name], seconds[name])
        for name in COMPARED
    }
    return VerifyReport(source.name, settings, results, seconds["dense"], run.contents_exact())


def _given_trace(trace: str | PathLike[str] | Trace | None, layer: int | None, steps: int) -> Trace:
    if isinstance(trace, Trace):
        return trace
    if trace is None:
        return shipped_trace(layer=layer)
    loaded = load_trace(trace, layer=layer)
    if len(loaded.q) == len(loaded.k):  # a query for every token: the last ones are the steps
        loaded = Trace(loaded.name, loaded.q[-min(steps, len(loaded.q)) :], loaded.k, loaded.v)
    return loaded
