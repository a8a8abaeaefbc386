"""What saving and loading cost, beside plain files of as many bytes.

    python benchmarks/persistence.py [--mib N] [--dir DIRECTORY] [--repeats N]

A table, and a cache of the same tokens, are saved and loaded in turns with a plain array: np.save
with an fsync, and np.load into an array that is there. Files are read while the system still has
them in memory, so a load is compared with memory, and not with the disk. Given are ratios of
minima: 1.5 takes half as long again as the plain file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import quire

HEADS, HEAD_DIM, LAYERS, BLOCK_SIZE = 8, 128, 4, 16
TOKEN_BYTES = LAYERS * HEADS * 2 * HEAD_DIM * 2


def new_pool(tokens: int) -> Any:
    """With room for the tokens twice."""
    return quire.BlockPool(
        2 * tokens // BLOCK_SIZE + 2,
        block_size=BLOCK_SIZE,
        num_kv_heads=HEADS,
        head_dim=HEAD_DIM,
        num_layers=LAYERS,
    )


def save_plainly(array: Any, path: Path) -> None:
    """np.save, until it is on the disk."""
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def minima(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest of each, taken in turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            kept = call()
            best[name] = min(best[name], time.perf_counter() - begin)
            if isinstance(kept, quire.BlockTable):
                kept.free()
    return best


def main() -> None:
    """Print each time as a ratio to the plain file's."""
    parser = argparse.ArgumentParser(description="Saving and loading beside plain files.")
    parser.add_argument("--mib", type=int, default=512, help="keys and values")
    parser.add_argument("--dir", type=Path, default=None, help="where the files are written")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    tokens = options.mib * 2**20 // TOKEN_BYTES
    pool, other = new_pool(tokens), new_pool(tokens)
    table, cache = quire.BlockTable(pool), quire.PrefixCache(pool)
    rows = np.random.default_rng(0).standard_normal((LAYERS, tokens, HEADS, HEAD_DIM), np.float32)
    table.append(rows, rows)
    del rows
    cache.insert(np.arange(tokens), table)
    plain = np.ones(tokens * TOKEN_BYTES, np.uint8)
    into = np.zeros_like(plain)

    def load_cache() -> None:
        loaded = quire.PrefixCache(other)
        loaded.load(directory)

    def load_plainly() -> None:
        into[:] = np.load(directory / "plain.npy", mmap_mode="r")

    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        path = directory / "table"
        saved = minima(
            {
                "plain": lambda: save_plainly(plain, directory / "plain.npy"),
                "table": lambda: table.save(path),
                "cache": lambda: cache.save(directory),
            },
            options.repeats,
        )
        loaded = minima(
            {
                "plain": load_plainly,
                "table": lambda: quire.load_table(other, path),
                "cache": load_cache,
            },
            options.repeats,
        )
    gib = plain.nbytes / 2**30
    for what, best in [("save", saved), ("load", loaded)]:
        print(f"{what}: plain file {best['plain'] / gib:.2f} s/GiB", end="")
        for kind in ("table", "cache"):
            print(f", {kind} {best[kind] / best['plain']:.2f} x", end="")
        print()


if __name__ == "__main__":
    main()
