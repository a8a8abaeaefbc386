"""What is told, explained and drawn of blocks that leave memory and come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_in_file import HEAD_DIM, HEADS, KINDS, LAYERS, LEAST, least, new_pool, rows

import quire

Told = list[tuple[str, tuple[int, ...]]]


def listen(pool: quire.BlockPool) -> Told:
    told: Told = []
    pool.on_event(lambda kind, blocks: told.append((kind, blocks)))
    return told


def filled(pool: quire.BlockPool, tokens: int) -> quire.BlockTable:
    table = quire.BlockTable(pool)
    table.append(*rows(np.random.default_rng(tokens), tokens))
    return table


def test_offload_and_restore(tmp_path: Path) -> None:
    pool = new_pool(tmp_path / "blocks", 6 << 20)
    told = listen(pool)
    table = filled(pool, 40)
    blocks = tuple(table.blocks.tolist())
    assert told == [("allocated", blocks)]
    del told[:]
    assert (table.offload(), table.offload()) == (3, 0)
    assert told == [("offloaded", blocks)]
    assert not any(block.is_resident for block in pool.explain(table).blocks)
    assert str(pool.explain(table)).splitlines()[::3] == [
        "40 tokens in 3 blocks of 16: 3 private; 3 offloaded",
        f"       1{blocks[1]:>8}   16/16  this table, offloaded",
    ]
    del told[:]
    table.append(*rows(np.random.default_rng(0), 1))  # into the last block
    assert told == [("restored", blocks[2:])]
    assert pool.explain(table).num_offloaded == 2
    assert (table.restore(), table.restore()) == (2, 0)
    assert told[1:] == [("restored", blocks[:2])]
    assert pool.explain(table).num_offloaded == 0
    del told[:]
    table.offload()
    table.free()
    assert [kind for kind, _ in told] == ["offloaded", "freed"]
    del told[:]
    assert set(pool.allocate(3).tolist()) == set(blocks)  # whoever has them now: nothing of it
    assert [kind for kind, _ in told] == ["allocated"]


def test_open_blocks_are_in_memory(tmp_path: Path) -> None:
    pool = new_pool(tmp_path / "blocks", 6 << 20, **KINDS["int4"])
    told = listen(pool)
    table = filled(pool, 56)  # two sealed, one open, and half of one
    blocks = tuple(table.blocks.tolist())
    del told[:]
    assert table.offload() == 2
    assert told == [("offloaded", blocks[:2])]
    assert pool.explain(table).num_offloaded == 2
    assert pool.resident_blocks[list(blocks)].tolist() == [False, False, True, True]
    table.truncate(40)  # the last two are open: one of them was sealed, and is read open again
    assert [block.is_resident for block in pool.explain(table).blocks] == [False, True, True]
    del told[:]
    assert table.restore() == 1
    assert told == [("restored", blocks[:1])]
    table.truncate(24)
    del told[:]
    table.append(*rows(np.random.default_rng(0), 1))
    assert told == [("restored", blocks[1:2])]  # as its tile counts no more
    pool.check()


# Blocks leave when room is needed, come when attention moves them in, and find no room.
@pytest.mark.parametrize("resident", [LEAST, 2 << 20, 6 << 20])
@pytest.mark.parametrize("kind", ["bfloat16", "int4", "int8_open"])
def test_what_was_told_is_what_is_in_memory(tmp_path: Path, resident: int, kind: str) -> None:
    resident = max(resident, least(7, **KINDS[kind]))
    pool = new_pool(tmp_path / "blocks", resident, **KINDS[kind])
    away, in_use = set[int](), set[int]()

    def note(kind: str, blocks: tuple[int, ...]) -> None:
        for block in blocks:
            assert (block in in_use) == (kind != "allocated")
            if kind in ("offloaded", "restored"):
                assert (block in away) == (kind == "restored")
            if kind == "allocated":
                in_use.add(block)
            if kind == "freed":
                in_use.discard(block)
            if kind == "offloaded":
                away.add(block)
            if kind in ("restored", "freed"):
                away.discard(block)

    failures: list[Any] = []

    def hear(kind: str, blocks: tuple[int, ...]) -> None:
        try:
            note(kind, blocks)
        except AssertionError as error:
            failures.append((kind, blocks, error))

    pool.on_event(hear)
    rng = np.random.default_rng(0)
    cache = quire.PrefixCache(pool)
    tables: list[quire.BlockTable] = []
    for step in range(60):
        match rng.integers(8) if tables else 0:
            case 0 | 1:
                tables.append(filled(pool, int(rng.integers(1, 500))))
            case 2:
                tables.pop(int(rng.integers(len(tables)))).free()
            case 3:
                tables[-1].offload()
            case 4:
                tables.append(tables[0].fork())
                tables[-1].append(*rows(rng, 20))
            case 5:
                table = tables[0]
                cache.insert(np.arange(len(table)) + 1000 * step, table)
            case 6:
                q = rng.standard_normal((1, HEADS, HEAD_DIM), np.float32)
                quire.attend(q, tables[:1], layer=step % LAYERS)
                tables[0].gather(step % LAYERS)
            case 7:
                tables[0].save(tmp_path / "table")
                tables.append(quire.load_table(pool, tmp_path / "table"))
        # few enough that all of them find room for their open blocks
        while (pool.num_free < 80 or len(tables) > 5) and tables:
            tables.pop(0).free()
            cache.evict(80)
        assert not failures
        assert set(np.flatnonzero(pool.ref_counts).tolist()) == in_use
        expected = np.flatnonzero((pool.ref_counts > 0) & ~pool.resident_blocks)
        assert set(expected.tolist()) == away, step
        assert pool.stats().offloaded == len(away)
    pool.check()
