"""Attention over four times the memory that a process may have: read ahead, and by page faults.

    python benchmarks/larger_than_memory.py [--mib 1024] [--order scattered,ascending]
                                            [--dtype bfloat16]

Decodes a token of each of several sequences, whose keys and values lie in a file, inside a cgroup
whose limit is a quarter of them. The page cache counts against it. Three ways, each in a process
of its own: `resident_bytes` (Quire reads ahead and gives back), the same file without it (what is
missing is read where it is touched, and the system chooses what leaves), and, without a limit, a
pool in memory, whose bits the others must have. Shown are the fastest step of each, what of the
file was mapped in memory at most, and the cgroup's own peak: everything, the interpreter included.

Needs to be allowed to make a memory cgroup (version 1 or 2); without one it says so.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import quire

HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, LAYERS, SEQUENCES = 32, 8, 128, 16, 2, 8
CHUNK = 256  # tokens appended at once


def own_cgroup() -> Path:
    """The directory of this process's memory cgroup."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory" + path)
    return Path("/sys/fs/cgroup" + path)


@contextlib.contextmanager
def memory_limit(limit: int) -> Iterator[Path]:
    """A cgroup below our own that holds a process, and its page cache, to `limit` bytes."""
    group = own_cgroup() / f"quire-{os.getpid()}"
    group.mkdir()
    try:
        old = group / "memory.limit_in_bytes"
        (old if old.exists() else group / "memory.max").write_text(str(limit))
        swap = group / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
        yield group
    finally:
        group.rmdir()


def peak_of(group: Path) -> int:
    old = group / "memory.max_usage_in_bytes"
    return int((old if old.exists() else group / "memory.peak").read_text())


def mapped_in_memory() -> int:
    """Bytes of files that are mapped in memory, which the system need not count to say."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGESIZE")


class Peak(threading.Thread):
    """The most of files that was mapped in memory, more than at first, looked at every 10 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first, self.most, self.stopped = mapped_in_memory(), 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.01):
            self.most = max(self.most, mapped_in_memory() - self.first)


def new_pool(num_blocks: int, dtype: str, **options: Any) -> quire.BlockPool:
    return quire.BlockPool(
        num_blocks,
        block_size=BLOCK_SIZE,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        num_layers=LAYERS,
        dtype=dtype,
        **options,
    )


def build(pool: quire.BlockPool, order: str) -> list[quire.BlockTable]:
    """Sequences of equal length that fill the pool, their blocks in random or ascending order."""
    rng = np.random.default_rng(0)
    if order == "scattered":
        ids = pool.allocate(pool.num_blocks)
        pool.release(rng.permutation(ids))
    tokens = pool.num_blocks * BLOCK_SIZE // SEQUENCES
    tables = []
    for _ in range(SEQUENCES):
        tables.append(quire.BlockTable(pool))
        for begin in range(0, tokens, CHUNK):
            n = min(CHUNK, tokens - begin)
            bits = rng.integers(0, 1 << 16, (2, LAYERS, n, KV_HEADS, HEAD_DIM), np.uint16)
            bits = bits & 0x807F | 0x3F00  # from 0.5 to 1, and their negatives
            tables[-1].append(*bits.view(ml_dtypes.bfloat16))
    return tables


def work(way: str, dtype: str, order: str, mib: int, path: str, steps: int) -> dict[str, Any]:
    """What the process of one way does and finds."""
    num_blocks = (mib << 20) // new_pool(1, dtype).nbytes // SEQUENCES * SEQUENCES
    options: dict[str, Any] = {}
    if way != "memory":
        options["backing_file"] = path
    if way == "ahead":
        options["resident_bytes"] = (mib << 20) // 8
    pool = new_pool(num_blocks, dtype, **options)
    peak = Peak()
    peak.start()
    tables = build(pool, order)
    digest, seconds = hashlib.sha256(), []
    q = np.random.default_rng(1).standard_normal((SEQUENCES, HEADS, HEAD_DIM), np.float32)
    for step in range(steps):
        begin = time.perf_counter()
        outs = [quire.attend(q, tables, layer=layer) for layer in range(LAYERS)]
        seconds.append(time.perf_counter() - begin)
        if step == 0:
            for out in outs:
                digest.update(out.tobytes())
    peak.stopped.set()
    peak.join()
    return {"seconds": min(seconds), "peak": peak.most, "bits": digest.hexdigest()}


def run(
    way: str, dtype: str, order: str, mib: int, path: str, steps: int, group: Path | None
) -> Any:
    """work() in a process of its own, inside the cgroup."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    arguments = [way, dtype, order, str(mib), path, str(steps)]
    command = [sys.executable, __file__, "--worker", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=enter).stdout
    return json.loads(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024, help="keys and values, MiB")
    parser.add_argument("--order", default="scattered,ascending", help="of a sequence's blocks")
    parser.add_argument("--dtype", default="bfloat16", help="of the pool")
    parser.add_argument("--directory", default=None, help="for the file; of a disk, not of memory")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        way, dtype, order, mib, path, steps = options.worker
        print(json.dumps(work(way, dtype, order, int(mib), path, int(steps))))
        return
    mib = options.mib
    limit = (mib << 20) // 4
    print(f"{mib} MiB of keys and values, {options.dtype}; ", end="")
    print(f"limit {limit >> 20} MiB, resident_bytes {mib // 8} MiB")
    print(f"{'blocks':10} {'way':12} {'step, s':>8} {'GB/s':>6} {'mapped':>8} {'cgroup':>8}  bits")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = os.path.join(directory, "blocks")
        for order in options.order.split(","):
            expected = run("memory", options.dtype, order, mib, path, 2, None)
            results = {}
            fault_steps = 1 if order == "scattered" else 3  # as each of those takes a minute
            for way, name, steps in (
                ("ahead", "read ahead", 3),
                ("faults", "page faults", fault_steps),
            ):
                try:
                    with memory_limit(limit) as group:
                        result = results[way] = run(
                            way, options.dtype, order, mib, path, steps, group
                        )
                        peak = f"{peak_of(group) / 2**20:5.0f}MiB"
                except OSError as error:
                    sys.exit(f"no limit can be set here, so there is nothing to compare: {error}")
                same = "same" if result["bits"] == expected["bits"] else "DIFFERENT"
                rate = (mib << 20) / result["seconds"] / 1e9
                mapped = f"{result['peak'] / 2**20:5.0f}MiB"
                print(
                    f"{order:10} {name:12} {result['seconds']:8.2f} {rate:6.2f} {mapped:>8} "
                    f"{peak:>8}  {same}",
                    flush=True,
                )
            ratio = results["faults"]["seconds"] / results["ahead"]["seconds"]
            print(f"{order:10} reading ahead is {ratio:.1f} times as fast", flush=True)


if __name__ == "__main__":
    main()
