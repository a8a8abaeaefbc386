"""Everything that reads or writes a pool larger than memory: the same bits as in memory, and at no
moment more of it in memory than was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_in_file import (
    HEAD_DIM,
    HEADS,
    KINDS,
    LAYERS,
    LEAST,
    MostInMemory,
    both,
    least,
    rows,
    twins,
)

import quire


def queries(tokens: int) -> Any:
    return np.random.default_rng(1).standard_normal((tokens, HEADS, HEAD_DIM), np.float32)


@pytest.mark.parametrize("mass", [False, True], ids=["", "mass"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention(tmp_path: Path, kind: str, mass: bool) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [2500, 1, 0, 640, 129, 17], **KINDS[kind])
    for q_lens in ([1] * 6, [70, 1, 0, 640, 2, 17]):
        cu = np.cumsum([0, *q_lens]).astype(np.int32)
        for options in ({}, {"sliding_window": 900, "num_sink_tokens": 20}):
            with MostInMemory(pool) as most:
                for ours, files in both(
                    tables,
                    queries(sum(q_lens)),
                    cu_seqlens_q=cu,
                    return_block_mass=mass,
                    **options,
                ):
                    assert ours == files
            most.expect_at_most(least(6, **KINDS[kind]))
    pool.check()


@pytest.mark.parametrize("scale", ["k_scale", "v_scale"])
@pytest.mark.parametrize("token", [0, 1000, 2999])
def test_a_scale_that_is_refused(tmp_path: Path, scale: str, token: int) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [3000, 640], dtype="int8")
    table = tables[1][0]
    block, offset = int(table.blocks[token // 16]), token % 16
    getattr(pool, scale)(1)[block, offset, 1] = 0
    out = np.full((2, HEADS, HEAD_DIM), 7, np.float32)
    with (
        MostInMemory(pool) as most,
        pytest.raises(
            ValueError,
            match=f"^attend: {scale}: got 0 at block {block}, offset {offset}, head 1, expected a "
            "positive finite number in each slot that is read$",
        ),
    ):
        quire.attend(queries(2), tables[1], layer=1, out=out)
    most.expect_at_most(LEAST)
    assert (out == 7).all()
    ours, files = (quire.attend(queries(2), mine, layer=0) for mine in tables)
    assert ours.tobytes() == files.tobytes()
    if token == 0:  # out of sight
        quire.attend(queries(2), tables[1], layer=1, sliding_window=2900, out=out)
        assert (out != 7).all()


def same_rows(tables: Any) -> None:
    for layer in range(LAYERS):
        ours, files = ([rows.tobytes() for rows in table.gather(layer)] for table in tables)
        assert ours == files


@pytest.mark.parametrize("holes", [False, True], ids=["", "holes"])
@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_of_tables(tmp_path: Path, kind: str, holes: bool) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [2500, 640, 33], **KINDS[kind])
    if holes:
        for ours in tables:
            for table in ours:
                table.drop_before(len(table) - 17, num_sink_tokens=len(table) // 2)
    paths = [(tmp_path / f"memory {i}", tmp_path / f"file {i}") for i in range(3)]
    for i in range(3):
        tables[0][i].save(paths[i][0])
        with MostInMemory(pool) as most:
            tables[1][i].save(paths[i][1])
        most.expect_at_most(least(3, **KINDS[kind]))
        assert paths[i][0].read_bytes() == paths[i][1].read_bytes()
        tables[1][i].free()
        with MostInMemory(pool) as most:
            tables[1][i] = quire.load_table(pool, paths[i][0])
        most.expect_at_most(least(3, **KINDS[kind]))
    for ours, files in zip(*tables, strict=True):
        assert ((ours.blocks < 0) == (files.blocks < 0)).all()
        if holes:
            files.save(tmp_path / "again")
            assert (tmp_path / "again").read_bytes() == paths[tables[1].index(files)][
                0
            ].read_bytes()
        else:
            same_rows((ours, files))
    pool.check()


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4", "int8_open"])
def test_save_and_load_of_a_cache(tmp_path: Path, kind: str) -> None:
    pools, tables = twins(tmp_path / "blocks", [2500, 640, 33], **KINDS[kind])
    ids = [np.arange(len(table)) + 10_000 * i for i, table in enumerate(tables[0])]
    paths = [tmp_path / "memory", tmp_path / "file"]
    caches = [quire.PrefixCache(pool) for pool in pools]
    for cache, ours, path in zip(caches, tables, paths, strict=True):
        for tokens, table in zip(ids, ours, strict=True):
            cache.insert(tokens, table)
        with MostInMemory(pools[1]) as most:
            cache.save(path)
        most.expect_at_most(least(3, **KINDS[kind]))
    first, second = (path / "prefix_cache.safetensors" for path in paths)
    assert first.read_bytes() == second.read_bytes()
    caches[1].clear()
    for table in tables[1]:
        table.free()
    with MostInMemory(pools[1]) as most:
        assert caches[1].load(paths[0]) == len(caches[0])
    most.expect_at_most(least(3, **KINDS[kind]))
    for tokens in ids:  # of pools with open blocks what is full, and rows of a block beside it
        for wanted in ([*tokens, 5], [*tokens[:20], 5, 5]):
            matches = [cache.match(wanted) for cache in caches]
            assert len(matches[0]) >= min(len(tokens) // 16 * 16, 20)
            same_rows(matches)
    pools[1].check()


@pytest.mark.parametrize("forked", [False, True], ids=["", "forked"])
@pytest.mark.parametrize("kind", KINDS)
def test_keep(tmp_path: Path, kind: str, forked: bool) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [1900, 33], **KINDS[kind])
    rng = np.random.default_rng(4)
    keeps = [
        np.r_[0:5, 9:1900],  # each row moves a little
        np.sort(rng.choice(np.r_[0:5, 9:1900], 900, replace=False)),
    ]
    for kept in [*keeps, keeps[1][::17], keeps[1][::34]]:
        others = [[table.fork() for table in ours] for ours in tables] if forked else []
        tables[0][0].keep(kept)
        with MostInMemory(pool) as most:
            tables[1][0].keep(kept)
        most.expect_at_most(least(2, **KINDS[kind]))
        for i in range(2):
            same_rows([ours[i] for ours in tables])
            if forked:
                same_rows([ours[i] for ours in others])
    pool.check()


def make_unwritable(path: Path) -> None:
    """Puts a pipe, to which no byte can be written, in the place of a pool's file."""
    for number in os.listdir("/proc/self/fd"):
        link = f"/proc/self/fd/{number}"
        if os.path.islink(link) and os.readlink(link) == f"{path} (deleted)":
            reading, writing = os.pipe()
            os.dup2(reading, int(number))
            os.close(reading)
            os.close(writing)
            return
    pytest.fail("the pool's file is not open")


def test_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [40, 33])
    table = tables[1][0]
    cache = quire.PrefixCache(pool)
    cache.insert(np.arange(40), table)
    table.save(tmp_path / "saved")
    cache.save(tmp_path)
    make_unwritable(tmp_path / "blocks")
    with pytest.raises(OSError, match=r"BlockTable\.offload: backing_file: got a file that could"):
        table.offload()
    before = pool.num_free, len(table), len(cache), cache.stats().hits
    calls = {
        "attend": lambda: quire.attend(queries(1), [table]),
        "BlockTable.append": lambda: table.append(*rows(np.random.default_rng(0), 1)),
        "BlockTable.extend": lambda: table.extend(1),
        "BlockTable.gather": lambda: table.gather(),
        "BlockTable.keep": lambda: table.keep(np.array([1, 2])),
        "BlockTable.offload": lambda: table.offload(),
        "BlockTable.restore": lambda: table.restore(),
        "BlockTable.save": lambda: table.save(tmp_path / "again"),
        "PrefixCache.match": lambda: cache.match(np.arange(30)),
        "PrefixCache.save": lambda: cache.save(tmp_path / "again"),
        "PrefixCache.load": lambda: cache.load(tmp_path),
        "load_table": lambda: quire.load_table(pool, tmp_path / "saved"),
        "BlockPool.allocate": lambda: pool.allocate(),
    }
    for name, call in calls.items():
        with pytest.raises(OSError, match=f"{name}: backing_file: got a file that could not be"):
            call()
    assert not (tmp_path / "again").exists()
    assert (pool.num_free, len(table), len(cache), cache.stats().hits) == before
    table.truncate(3)  # what uses no block goes on
    cache.clear()
    pool.check()


def test_a_load_whose_blocks_cannot_be_written(tmp_path: Path) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [2500])
    tables[0][0].save(tmp_path / "saved")
    tables[1][0].free()
    make_unwritable(tmp_path / "blocks")
    with pytest.raises(OSError, match="load_table: backing_file: got a file that could not be"):
        quire.load_table(pool, tmp_path / "saved")
    assert pool.num_used == 0
    pool.check()
