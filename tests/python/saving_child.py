"""Saves two versions of a table and of a cache in turn until it is killed, again and again.

    python saving_child.py DIRECTORY KILLS SEED

The process forks one that saves for ever, kills it with SIGKILL at a random moment, loads what it
left, and does so KILLS times. It prints how many saves were cut short and how many versions were
found, and fails where a file is not one of the two, whole.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import quire

TOKENS = {0: 40, 1: 70}  # of each version


def new_pool() -> Any:
    return quire.BlockPool(
        64, block_size=4, num_kv_heads=2, head_dim=64, num_layers=2, dtype="float32"
    )


def new_table(pool: Any, version: int) -> Any:
    table = quire.BlockTable(pool)
    rows = np.full((2, TOKENS[version], 2, 64), version, np.float32)
    table.append(rows, rows)
    return table


def save_for_ever(directory: Path, begin: int) -> None:
    """Never returns. Which of the four files comes first is the caller's choice."""
    tables = [new_table(new_pool(), version) for version in TOKENS]
    caches = [quire.PrefixCache(table.pool) for table in tables]
    for table, cache in zip(tables, caches, strict=True):
        cache.insert(np.arange(len(table)), table)
    for step in itertools.count(begin):
        version = step // 2 % 2
        if step % 2 == 0:
            tables[version].save(directory / "table")
        else:
            caches[version].save(directory)


def check_table(table: Any) -> int:
    """The version that it is, all of it."""
    version = {tokens: version for version, tokens in TOKENS.items()}[len(table)]
    for layer in range(2):
        assert all((rows == version).all() for rows in table.gather(layer)), version
    return version


def main() -> None:
    """Kill, look, and start again."""
    directory, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    moments = random.Random(seed)
    new_table(new_pool(), 0).save(directory / "table")
    cut_short, seen = 0, set()
    for _ in range(kills):
        begin = moments.randrange(4)
        child = os.fork()
        if child == 0:
            save_for_ever(directory, begin)
        time.sleep(moments.uniform(0.003, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        cut_short += any(path.name.endswith(".saving") for path in directory.iterdir())
        seen.add(check_table(quire.load_table(new_pool(), directory / "table")))
        cache = quire.PrefixCache(new_pool())
        if (directory / "prefix_cache.safetensors").exists():
            cache.load(directory)
            table = cache.match(np.arange(99))
            seen.add(2 + check_table(table))
            table.free()
    assert len(list(directory.iterdir())) <= 4  # nothing piles up
    print(cut_short, len(seen))


if __name__ == "__main__":
    main()
