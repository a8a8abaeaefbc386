"""Latent attention: values stored once, as the beginnings of their keys, and stored apart.

    python benchmarks/shared_values.py [--quick]

Two pools of the same keys, of 576 numbers of which the first 512 are the value, bfloat16, one KV
head, blocks of 16 tokens in random order. Each round decodes one token from either, one after the
other; the next round takes other blocks, so that none is in a cache. A ratio is that of the fastest
rounds. The results must be the same bits.
"""

from __future__ import annotations

import argparse
import itertools
import time

import ml_dtypes
import numpy as np

import quire

KEY, VALUE, BLOCK = 576, 512, 16
HEADS, CONTEXTS, THREADS = (1, 16, 128), (4096, 16384), (1, 2)
ROUNDS = (40, 400)  # at least, and at most
COLD_BYTES = 1 << 28  # of the pool that shares


def pools() -> tuple[quire.BlockPool, quire.BlockPool]:
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
    return made[0], made[1]


def measure(
    both: tuple[quire.BlockPool, quire.BlockPool],
    heads: int,
    keys: int,
    threads: int,
    rounds: int,
) -> tuple[float, float]:
    """Seconds of the fastest round of each."""
    random = np.random.default_rng(1)
    order = random.permutation(both[0].num_blocks).astype(np.int32)
    blocks = keys // BLOCK
    q = random.standard_normal((1, heads, KEY), np.float32).astype(ml_dtypes.bfloat16)
    lengths = np.array([keys], np.int32)
    seconds = [np.inf, np.inf]
    deck = itertools.cycle(range(0, len(order) - blocks + 1, blocks))
    for i in range(rounds + 1):
        first = next(deck)
        tables = order[first : first + blocks][None]
        found = []
        for side in (0, 1) if i % 2 else (1, 0):
            caches = both[side].k_cache(), both[side].v_cache()
            begin = time.perf_counter()
            found.append(quire.paged_attention(q, *caches, tables, lengths, num_threads=threads))
            taken = time.perf_counter() - begin
            if i > 0:  # the first finds nothing ready
                seconds[side] = min(seconds[side], taken)
        assert found[0].tobytes() == found[1].tobytes()
    return seconds[0], seconds[1]


def main() -> None:
    """Measures, and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, for some seconds")
    quick = parser.parse_args().quick
    both = pools()
    of_token = [pool.stats().bytes_per_token for pool in both]
    print(f"bytes of a token: {of_token[0]:.0f} shared, {of_token[1]:.0f} apart\n")
    print("| query heads | keys | threads | shared, ms | apart, ms | apart / shared |")
    print("|---|---|---|---|---|---|")
    contexts = CONTEXTS[:1] if quick else CONTEXTS
    for heads, keys, threads in itertools.product(HEADS, contexts, THREADS):
        rounds = (1 if quick else 16) * (1 << 23) // (heads * keys)
        shared, apart = measure(both, heads, keys, threads, min(max(rounds, ROUNDS[0]), ROUNDS[1]))
        print(
            f"| {heads} | {keys} | {threads} | {shared * 1e3:.2f} | {apart * 1e3:.2f} "
            f"| {apart / shared:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
