"""Pools in a file: the same bits as in memory, and no more of them in memory than was asked for."""

from __future__ import annotations

import errno
import gc
import os
import resource
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from pool_in_file import (
    HEAD_DIM,
    HEADS,
    KINDS,
    LAYERS,
    LEAST,
    NUM_BLOCKS,
    PAGE,
    SLAB,
    MostInMemory,
    both,
    in_memory,
    least,
    new_pool,
    rows,
    twins,
)

import quire


@pytest.mark.parametrize("resident", [LEAST, 3 << 20, 64 << 20])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sliding_window": 300},
        {"causal": False},
        {"softcap": 20.0, "sinks": np.ones(HEADS, "f")},
    ],
    ids=["plain", "window", "all", "capped"],
)
def test_same_bits_as_in_memory(tmp_path: Path, resident: int, options: dict[str, Any]) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [2100, 1, 0, 640, 129, 17], resident)
    rng = np.random.default_rng(1)
    for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)):
        for q_lens in ([1] * 6, [0, 1, 0, 0, 100, 0], [70, 1, 0, 640, 2, 17]):
            q = rng.standard_normal((sum(q_lens), HEADS, HEAD_DIM), np.float32).astype(dtype)
            cu = np.cumsum([0, *q_lens]).astype(np.int32)
            for threads in (1, 3):
                for ours, files in both(tables, q, cu_seqlens_q=cu, num_threads=threads, **options):
                    assert ours == files
            assert in_memory(pool) <= resident
    pool.check()


@pytest.mark.parametrize("kind", KINDS)
def test_other_implementations_and_gather(tmp_path: Path, kind: str) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [1500, 33], **KINDS[kind])
    q = np.random.default_rng(1).standard_normal((2, HEADS, HEAD_DIM), np.float32)
    for implementation in ("gather", "dense"):
        for ours, files in both(tables, q, implementation=implementation):
            assert ours == files
        assert in_memory(pool) <= LEAST
    for table, file_table in zip(*tables, strict=True):
        for layer in range(LAYERS):
            for a, b in zip(table.gather(layer), file_table.gather(layer), strict=True):
                assert a.tobytes() == b.tobytes()
            assert in_memory(pool) <= LEAST


def test_writing_more_than_fits_leaves_memory(tmp_path: Path) -> None:
    pool = new_pool(tmp_path / "blocks")
    table = quire.BlockTable(pool)
    k, v = rows(np.random.default_rng(0), 3000)
    table.append(k, v)
    assert in_memory(pool) <= LEAST
    stats = pool.stats()
    assert stats.resident_bytes <= LEAST
    assert stats.offloaded == stats.used - pool.resident_blocks[table.blocks].sum() > 0
    assert table.gather(1)[0].tobytes() == k[1].astype(ml_dtypes.bfloat16).tobytes()
    pool.check()


# Also of a prompt that is longer than all that fits, and whose rows come later.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind == "int4" or "open" in kind])
def test_open_blocks_are_a_part_of_what_is_in_memory(tmp_path: Path, kind: str) -> None:
    limit = least(1, **KINDS[kind])
    pool = new_pool(tmp_path / "blocks", limit, **KINDS[kind])
    rng = np.random.default_rng(0)
    table, others = quire.BlockTable(pool), quire.BlockTable(pool)
    k, v = rows(rng, 3000)
    with MostInMemory(pool) as most:
        table.append(k, v)
    most.expect_at_most(limit)
    before = pool.num_free, table.blocks.tolist(), table.gather(1)[0].tobytes()
    with pytest.raises(
        quire.OutOfBlocks, match=r"^BlockTable.extend: n: got 900, which takes 57 mo"
    ):
        others.extend(900)
    slots = others.extend(64)
    assert in_memory(pool) <= limit
    assert pool.stats().resident_bytes <= limit
    for layer in range(LAYERS):
        k_open, v_open = pool.k_open(layer), pool.v_open(layer)
        quire.write_kv(k[layer, :64], v[layer, :64], k_open, v_open, slots - NUM_BLOCKS * 16)
    tables, refusal = [others], ""
    while "open" not in refusal:
        tables.append(quire.BlockTable(pool))
        try:
            tables[-1].append(k[:, :1], v[:, :1])
        except quire.OutOfBlocks as error:
            refusal = str(error)
    assert "which takes 1 more open block at once, expected at most the 0 that resi" in refusal
    assert len(tables[-1]) == 0
    assert in_memory(pool) <= limit
    expected = k[1, :64].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert others.gather(1)[0].tobytes() == expected.tobytes()
    for short in tables:
        short.free()
    assert (pool.num_free, table.blocks.tolist(), table.gather(1)[0].tobytes()) == before
    assert in_memory(pool) <= limit
    pool.check()


# Where the system decides, nothing is refused.
def test_open_blocks_without_resident_bytes(tmp_path: Path) -> None:
    pools = [new_pool(path, None, **KINDS["int4"]) for path in (None, tmp_path / "blocks")]
    k, v = rows(np.random.default_rng(0), 700)
    tables = [quire.BlockTable(pool) for pool in pools]
    for pool, table in zip(pools, tables, strict=True):
        table.append(k, v)
        slots = table.extend(900) - NUM_BLOCKS * 16
        quire.write_kv(k[0], v[0], pool.k_open(), pool.v_open(), slots[:700])
        table.truncate(1400)
    assert tables[0].gather()[0].tobytes() == tables[1].gather()[0].tobytes()


def test_offload_and_restore(tmp_path: Path) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [400, 400], resident=6 << 20)
    first, second = tables[1]
    q = np.random.default_rng(1).standard_normal((2, HEADS, HEAD_DIM), np.float32)
    assert pool.resident_blocks[first.blocks].all()
    before = pool.stats().resident_bytes
    assert first.offload() == 25
    assert first.offload() == 0
    assert not pool.resident_blocks[first.blocks].any()
    assert pool.resident_blocks[second.blocks].all()
    assert pool.stats().resident_bytes == before - 25 * LAYERS * SLAB
    assert pool.stats().offloaded == 25
    assert in_memory(pool) <= pool.stats().resident_bytes
    for ours, files in both(tables, q):
        assert ours == files
    first.offload()
    assert first.restore() == 25
    assert first.restore() == 0
    assert pool.stats().offloaded == 0
    for ours, files in both(tables, q):
        assert ours == files
    pool.check()


def test_what_others_hold_stays(tmp_path: Path) -> None:
    pool = new_pool(tmp_path / "blocks", 6 << 20)
    table = quire.BlockTable(pool)
    table.append(*rows(np.random.default_rng(0), 40))
    child = table.fork()
    assert table.offload() == 0
    assert pool.resident_blocks[child.blocks].all()
    child.append(*rows(np.random.default_rng(1), 1))  # copies the last block
    assert table.offload() == 1
    expected = [a.tobytes() for a in table.gather(1)]
    table.restore()
    child.free()
    assert table.offload() == 3
    # copied on write from a block that is not in memory
    twin = table.fork()
    twin.append(*rows(np.random.default_rng(2), 5))
    assert pool.stats().copies_on_write == 2
    for a, b in zip(twin.gather(1), expected, strict=True):
        assert a[:40].tobytes() == b
    assert [a.tobytes() for a in table.gather(1)] == expected
    pool.check()


def test_restore_of_more_than_fits_raises(tmp_path: Path) -> None:
    pool = new_pool(tmp_path / "blocks")
    table = quire.BlockTable(pool)
    table.append(*rows(np.random.default_rng(0), 100))
    before = pool.resident_blocks
    with pytest.raises(ValueError, match=r"BlockTable.restore: table: got \d+ bytes, expected at"):
        table.restore()
    assert (pool.resident_blocks == before).all()


@pytest.mark.parametrize("file", [False, True])
def test_pools_that_keep_no_books_raise(tmp_path: Path, file: bool) -> None:
    pool = new_pool(tmp_path / "blocks" if file else None, None)
    table = quire.BlockTable(pool)
    for method in (table.offload, table.restore):
        with pytest.raises(ValueError, match="table: got one of a pool without backing_file"):
            method()
    table.append(*rows(np.random.default_rng(0), 100))
    assert pool.resident_blocks.all()
    assert (pool.stats().resident_bytes, pool.stats().offloaded) == (pool.nbytes, 0)
    table.free()
    with pytest.raises(ValueError, match=r"BlockTable\.offload: table: got a freed one"):
        table.offload()


def test_free_and_cached_blocks_leave_before_those_in_use(tmp_path: Path) -> None:
    pool = new_pool(tmp_path / "blocks", 6 << 20)
    cache = quire.PrefixCache(pool)
    rng = np.random.default_rng(0)
    kept, cached, freed = (quire.BlockTable(pool) for _ in range(3))
    for table in (kept, cached, freed):
        table.append(*rows(rng, 640))
    ids = list(range(640))
    cache.insert(ids, cached)
    expected = cached.gather(1)[0].tobytes()
    blocks, free_blocks = cached.blocks, freed.blocks
    cached.free()
    freed.free()
    pool.allocate(40)  # the freed ones again, so that others must go from here on
    more = quire.BlockTable(pool)
    more.append(*rows(rng, 640))
    assert pool.resident_blocks[kept.blocks].all()
    assert not pool.resident_blocks[blocks].all()
    assert pool.resident_blocks[free_blocks].all()
    assert len(cache) == 40  # offloaded, none dropped
    assert pool.stats().offloaded > 0
    again = cache.match([*ids, 7])
    assert again.num_tokens == 640
    assert again.gather(1)[0].tobytes() == expected
    # dropped only when no block is left
    assert pool.allocate(pool.num_free).size > 0
    again.free()
    pool.allocate(10)
    assert len(cache) == 30
    pool.check()


def test_partial_match_copies_rows_that_are_not_in_memory(tmp_path: Path) -> None:
    pool = new_pool(tmp_path / "blocks", 6 << 20)
    cache = quire.PrefixCache(pool)
    table = quire.BlockTable(pool)
    table.append(*rows(np.random.default_rng(0), 32))
    ids = list(range(32))
    cache.insert(ids, table)
    assert table.offload() == 2
    expected = table.gather(1)[0]
    match = cache.match([*ids[:25], 99, 99])
    assert match.num_tokens == 25
    assert match.gather(1)[0].tobytes() == expected[:25].tobytes()


def test_the_file_is_working_memory(tmp_path: Path) -> None:
    path = tmp_path / "blocks"
    pool = new_pool(path)
    assert not path.exists()
    twin = new_pool(path)  # the name is free again
    maps = Path("/proc/self/maps")
    assert maps.read_text().count(str(path)) == 2
    pool.k_cache()[3] = 5
    assert (twin.k_cache()[3] == 0).all()
    assert pool.nbytes == NUM_BLOCKS * LAYERS * SLAB
    view = pool.k_cache()
    del pool
    gc.collect()
    assert (view[3] == 5).all()
    del view
    gc.collect()
    assert maps.read_text().count(str(path)) == 1
    assert new_pool(path, head_dim=1, resident=1 << 20).nbytes == NUM_BLOCKS * LAYERS * PAGE


def test_files_that_cannot_be_made(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("somebody's")
    cases = [
        (taken, FileExistsError),
        (tmp_path, FileExistsError),
        (tmp_path / "none" / "x", FileNotFoundError),
        (taken / "x", NotADirectoryError),
    ]
    for path, error in cases:
        with pytest.raises(error, match="BlockPool: backing_file: got"):
            new_pool(path)
    assert taken.read_text() == "somebody's"
    with pytest.raises(OSError, match="BlockPool: backing_file: got") as full:
        quire.BlockPool(1 << 30, num_kv_heads=64, head_dim=512, backing_file=tmp_path / "huge")
    assert full.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_file_beyond_the_limit_of_the_process(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match=r"BlockPool: backing_file: got .* at most the 1048576"):
            new_pool(tmp_path / "blocks")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_wrong_arguments(tmp_path: Path) -> None:
    path = tmp_path / "blocks"
    with pytest.raises(
        ValueError, match=f"resident_bytes: got {LEAST - 1}, expected at least {LEAST}"
    ):
        new_pool(path, LEAST - 1)
    with pytest.raises(ValueError, match="resident_bytes: got -1, expected at least"):
        new_pool(path, -1)
    with pytest.raises(ValueError, match="resident_bytes: got 99999999 without backing_file"):
        new_pool(None, resident_bytes=99999999)
    with pytest.raises(TypeError, match="BlockPool: resident_bytes: got float"):
        new_pool(path, resident_bytes=1e9)
    for wrong, text in ((3, "int"), (object(), "object")):
        with pytest.raises(
            TypeError, match=f"BlockPool: backing_file: got {text}, expected a path"
        ):
            new_pool(None, backing_file=wrong)
    for wrong in ("", "a\0b"):
        with pytest.raises(ValueError, match="BlockPool: backing_file: got"):
            new_pool(None, backing_file=wrong)
    assert list(tmp_path.iterdir()) == []
    for good in (str(path), os.fsencode(path), path):
        assert new_pool(None, backing_file=good, resident_bytes=LEAST).num_free == NUM_BLOCKS


def test_threads_attend_while_others_change_what_is_in_memory(tmp_path: Path) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [1200, 300, 300, 40])
    q = np.random.default_rng(1).standard_normal((2, HEADS, HEAD_DIM), np.float32)
    expected = [quire.attend(q, tables[0][:2], layer=i).tobytes() for i in range(LAYERS)]
    failures: list[Any] = []
    stop = threading.Event()

    def attend() -> None:
        for step in range(8):
            layer = step % LAYERS
            if quire.attend(q, tables[1][:2], layer=layer).tobytes() != expected[layer]:
                failures.append("other bits")

    def move(table: quire.BlockTable) -> None:
        while not stop.is_set():
            table.offload()
            pool.stats()
            stop.wait(0.002)

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            with tables[1][3].fork() as table:
                k, v = rows(rng, 50)
                table.append(k, v)
                table.offload()
                if table.gather(1)[0][40:].tobytes() != k[1].astype(ml_dtypes.bfloat16).tobytes():
                    failures.append("other rows")

    readers = [threading.Thread(target=attend) for _ in range(2)]
    others = [threading.Thread(target=move, args=[tables[1][i]]) for i in (0, 2)]
    others += [threading.Thread(target=write, args=[seed]) for seed in range(2)]
    for thread in readers + others:
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    for thread in others:
        thread.join()
    assert not failures
    assert in_memory(pool) <= LEAST
    pool.check()
