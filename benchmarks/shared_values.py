"""Latent attention: values stored once, as the beginnings of their keys, stored apart, and once
with the rotary keys in an array of their own.

    python benchmarks/shared_values.py [--quick]

Two pools of the same keys, of 576 numbers of which the first 512 are the value, bfloat16, one KV
head, blocks of 16 tokens in random order, and two arrays of the 512 and the 64. Each round decodes
one token from each of them, one after the other; the next round takes other blocks, so that none is
in a cache. A ratio is that of the fastest rounds. The results must be the same bits.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

import quire

KEY, VALUE, BLOCK = 576, 512, 16
HEADS, CONTEXTS, THREADS = (1, 16, 128), (4096, 16384), (1, 2)
ROUNDS = (40, 400)  # at least, and at most
COLD_BYTES = 1 << 28  # of the pool that shares


def pools() -> list[quire.BlockPool]:
    """One that shares and one that does not, of the same numbers."""
    num_blocks = COLD_BYTES // (BLOCK * KEY * 2)
    made = [
        quire.BlockPool(num_blocks, num_kv_heads=1, head_dim=KEY, v_head_dim=VALUE, shared=shared)
        for shared in (True, False)
    ]
    rows = np.random.default_rng(0).standard_normal((997, BLOCK, 1, KEY), np.float32)
    numbers = rows.astype(ml_dtypes.bfloat16)
    for pool in made:
        for first in range(0, num_blocks, len(numbers)):
            count = min(len(numbers), num_blocks - first)
            pool.k_cache()[first : first + count] = numbers[:count]
            pool.v_cache()[first : first + count] = numbers[:count, ..., :VALUE]
    return made


def caches(made: Sequence[quire.BlockPool]) -> list[tuple[Any, Any, Any]]:
    """Keys, values and the last numbers of keys, of both pools and of two arrays."""
    k = made[0].k_cache()
    latents, rotary = k[..., :VALUE].copy(), k[..., VALUE:].copy()
    return [*((pool.k_cache(), pool.v_cache(), None) for pool in made), (latents, latents, rotary)]


def measure(
    sides: Sequence[tuple[Any, Any, Any]], heads: int, keys: int, threads: int, rounds: int
) -> list[float]:
    """Seconds of the fastest round of each."""
    random = np.random.default_rng(1)
    order = random.permutation(len(sides[0][0])).astype(np.int32)
    blocks = keys // BLOCK
    q = random.standard_normal((1, heads, KEY), np.float32).astype(ml_dtypes.bfloat16)
    lengths = np.array([keys], np.int32)
    seconds = [np.inf] * len(sides)
    deck = itertools.cycle(range(0, len(order) - blocks + 1, blocks))
    for i in range(rounds + 1):
        first = next(deck)
        tables = order[first : first + blocks][None]
        found = []
        for side in np.roll(np.arange(len(sides)), i):
            k, v, tail = sides[side]
            begin = time.perf_counter()
            found.append(
                quire.paged_attention(q, k, v, tables, lengths, k_tail=tail, num_threads=threads)
            )
            taken = time.perf_counter() - begin
            if i > 0:  # the first finds nothing ready
                seconds[side] = min(seconds[side], taken)
        assert len({out.tobytes() for out in found}) == 1
    return seconds


def main() -> None:
    """Measures, and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, for some seconds")
    quick = parser.parse_args().quick
    made = pools()
    of_token = [pool.stats().bytes_per_token for pool in made]
    sides = caches(made)
    print(f"bytes of a token: {of_token[0]:.0f} shared, {of_token[1]:.0f} apart\n")
    print("| query heads | keys | threads | shared, ms | apart / shared | two arrays / shared |")
    print("|---|---|---|---|---|---|")
    contexts = CONTEXTS[:1] if quick else CONTEXTS
    for heads, keys, threads in itertools.product(HEADS, contexts, THREADS):
        rounds = (1 if quick else 16) * (1 << 23) // (heads * keys)
        rounds = min(max(rounds, ROUNDS[0]), ROUNDS[1])
        shared, apart, joined = measure(sides, heads, keys, threads, rounds)
        print(
            f"| {heads} | {keys} | {threads} | {shared * 1e3:.2f} | {apart / shared:.2f} "
            f"| {joined / shared:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
