"""Quantised caches against bfloat16, in one run: what they cost in accuracy and save in time.

    python benchmarks/quantised.py [--quick] [--block-size 16] [--models DIR ...]

Accuracy: the RMS of the error of attention, relative to the RMS of its output, on the keys and
values of a real model (those of `quire verify`), 200 tokens decoded, one after the other; exact is
float64 on keys and values that are not rounded. With --models also that of the logits of small
models (a DIR holds config.json and model.safetensors; decoder.py has the kinds) over their prompts,
token by token, against a float32 cache; and how often the likeliest token is the same.

Speed: the fastest of interleaved calls, one query of each of 32 heads, and of 8, over 8 KV heads of
128, one thread, blocks in random order, all sealed, cold. 32 heads are bound by arithmetic on some
processors, 8 by memory on all.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from decoder import Decoder, load_decoder

import quire
from quire.trace import shipped_trace

DTYPES = ("bfloat16", "float8_e4m3fn", "int8", "int4")
# With open_blocks of BlockPool: how many last blocks of 16 tokens are in bfloat16.
CACHES = (
    ("bfloat16", 0), ("float8_e4m3fn", 0), ("float8_e4m3fn", 9), ("int8", 0), ("int8", 2),
    ("int4", 2),
)  # fmt: skip
CONTEXTS, QUICK_CONTEXTS = (512, 4096, 16384), (4096,)
COLD_BYTES = 1 << 28


def rms(x: Any) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def exact_attention(q: Any, k: Any, v: Any) -> Any:
    """Causal attention of the last len(q) of len(k) tokens in float64, a head at a time."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.empty((*q.shape[:2], v.shape[2]))
    hidden = np.arange(len(k)) > np.arange(len(k) - len(q), len(k))[:, None]
    for head in range(q.shape[1]):
        kv_head = head * k.shape[1] // q.shape[1]
        scores = q[:, head] @ k[:, kv_head].T / np.sqrt(q.shape[2])
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = weights @ v[:, kv_head] / weights.sum(axis=1, keepdims=True)
    return out


def trace_errors() -> None:
    """A row for each cache: the error in each layer of the shipped trace."""
    layers = (1, 4)
    print(
        "| cache | open blocks | bytes of a token and head | "
        + " | ".join(f"layer {n}" for n in layers)
        + " |"
    )
    print("|---|" + "---|" * (2 + len(layers)))
    for dtype, open_blocks in CACHES:
        errors = []
        for layer in layers:
            trace = shipped_trace(layer=layer)
            tokens, heads, size = trace.k.shape
            pool = quire.BlockPool(
                -(-tokens // 16), num_kv_heads=heads, head_dim=size, dtype=dtype,
                open_blocks=open_blocks,
            )  # fmt: skip
            queries = trace.q.astype(ml_dtypes.bfloat16)
            out = np.empty(queries.shape, np.float32)
            first = tokens - len(queries)
            with quire.BlockTable(pool) as table:
                table.append(trace.k[:first], trace.v[:first])
                for i in range(len(queries)):
                    one = slice(first + i, first + i + 1)
                    table.append(trace.k[one], trace.v[one])
                    quire.attend(queries[i : i + 1], [table], out=out[i : i + 1])
            exact = exact_attention(queries, trace.k, trace.v)
            errors.append(rms(out - exact) / rms(exact))
        per_head = pool.nbytes // (pool.num_blocks * pool.block_size * heads)
        cells = [f"{error:.2%}" for error in errors]
        print(f"| {dtype} | {open_blocks} | {per_head} | " + " | ".join(cells) + " |")


def scales_of(pool: quire.BlockPool) -> dict[str, Any]:
    """The options of write_kv and paged_attention for a pool's scales; none where it has none."""
    if pool.dtype.itemsize > 1:
        return {}
    return {"k_scale": pool.k_scale(), "v_scale": pool.v_scale()}


def logit_errors(name: str, model: Decoder) -> None:
    """A row for each cache: the error of the logits, and how often the first choice stays."""
    tokens = model.prompt()
    exact = model.logits(tokens, "float32")
    print(f"\n| cache | open blocks | error of {name}'s logits | same first choice |")
    print("|---|---|---|---|")
    for dtype, open_blocks in CACHES:
        logits = model.logits(tokens, dtype, open_blocks)
        same = np.mean(logits.argmax(axis=1) == exact.argmax(axis=1))
        error = rms(logits - exact) / rms(exact)
        print(f"| {dtype} | {open_blocks} | {error:.2%} | {same:.1%} |")


class ColdCalls:
    """Calls of one dtype over as many sequences as leave the processor's caches behind."""

    def __init__(self, dtype: str, num_tokens: int, num_heads: int, size: int) -> None:
        random = np.random.default_rng(0)
        of_sequence = num_tokens // size
        geometry = {"block_size": size, "num_kv_heads": 8, "head_dim": 128, "dtype": dtype}
        sequences = max(2, COLD_BYTES // quire.BlockPool(of_sequence, **geometry).nbytes)
        self.pool = quire.BlockPool(of_sequence * sequences, **geometry)
        ids = random.permutation(self.pool.num_blocks).astype(np.int32)
        self.tables = ids.reshape(sequences, 1, of_sequence)
        self.scales = scales_of(self.pool)
        rows = random.standard_normal((num_tokens, 8, 128)).astype(np.float32)
        for table in self.tables:
            slots = (table[0, :, None].astype(np.int64) * size + np.arange(size)).reshape(-1)
            quire.write_kv(
                rows, rows, self.pool.k_cache(), self.pool.v_cache(), slots, **self.scales
            )
        self.q = random.standard_normal((1, num_heads, 128)).astype(ml_dtypes.bfloat16)
        self.lengths = np.array([num_tokens])
        self.calls = 0
        self.best = np.inf

    def run(self) -> None:
        """One call, over the sequence that was read longest ago."""
        table = self.tables[self.calls % len(self.tables)]
        k_cache, v_cache = self.pool.k_cache(), self.pool.v_cache()
        begin = time.perf_counter()
        quire.paged_attention(
            self.q, k_cache, v_cache, table, self.lengths, num_threads=1, **self.scales,
        )  # fmt: skip
        self.best = min(self.best, time.perf_counter() - begin)
        self.calls += 1


def speeds(contexts: tuple[int, ...], seconds: float, size: int) -> None:
    """A row for each context: how many times as fast as bfloat16."""
    print("\n| query heads, keys | " + " | ".join(DTYPES) + " |\n|---|" + "---|" * len(DTYPES))
    for num_heads, num_tokens in itertools.product((32, 8), contexts):
        every = [ColdCalls(dtype, num_tokens, num_heads, size) for dtype in DTYPES]
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for calls in every:
                calls.run()
        cells = [f"{calls.best * 1e6:.0f} us, {every[0].best / calls.best:.2f}x" for calls in every]
        print(f"| {num_heads}, {num_tokens} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Accuracy, then speed."""
    parser = argparse.ArgumentParser(description="Quantised caches against bfloat16.")
    parser.add_argument("--quick", action="store_true", help="one context, for some seconds")
    parser.add_argument("--block-size", type=int, default=16, help="tokens of a block")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="folders of models")
    options = parser.parse_args()
    trace_errors()
    for folder in options.models:
        logit_errors(folder.name, load_decoder(folder))
    contexts, seconds = (QUICK_CONTEXTS, 2) if options.quick else (CONTEXTS, 15)
    speeds(contexts, seconds, options.block_size)


if __name__ == "__main__":
    main()
