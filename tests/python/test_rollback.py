"""Tokens that are tried out and taken back leave no trace: the bits of what stays, and of what
comes after, are those of a twin in another pool that never had them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire

HEADS, KV_HEADS, DIM, MOST = 4, 2, 16, 64

KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {},
    "int8": {"dtype": "int8"},
    "float8": {"dtype": "float8_e4m3fn"},
    "int4": {"dtype": "int4"},
    "int4_3": {"dtype": "int4", "open_blocks": 3},
    "int8_2": {"dtype": "int8", "open_blocks": 2},
    "float8_1": {"dtype": "float8_e4m3fn", "open_blocks": 1},
}


def new_pool(num_blocks: int = 200, **options: Any) -> quire.BlockPool:
    return quire.BlockPool(num_blocks, num_kv_heads=KV_HEADS, head_dim=DIM, **options)


def rows(rng: np.random.Generator, layers: int, tokens: int, outlier: bool = False) -> Any:
    numbers = rng.standard_normal((2, layers, tokens, KV_HEADS, DIM), np.float32)
    if outlier and tokens:
        numbers[:, :, rng.integers(tokens), :, rng.integers(DIM)] = 2000.0
    return numbers


def add(table: quire.BlockTable, kv: Any, extends: bool = False) -> None:
    """Appends rows [2, layers, n, ...], or extends the table and writes them."""
    pool = table.pool
    if not extends or (pool.open_blocks == 0 and pool.dtype.itemsize == 1):  # scales of their own
        k, v = kv if pool.num_layers > 1 else kv[:, 0]
        table.append(k, v)
        return
    slots = table.extend(kv.shape[2])
    is_open = pool.open_blocks > 0
    for layer, (k, v) in enumerate(zip(*kv, strict=True)):
        caches = (pool.k_open, pool.v_open) if is_open else (pool.k_cache, pool.v_cache)
        shift = pool.num_blocks * pool.block_size if is_open else 0
        quire.write_kv(k, v, caches[0](layer), caches[1](layer), slots - shift)


def bits(table: quire.BlockTable, q: Any, implementation: str = "fused") -> list[bytes]:
    """What gather gives, and attention of the last token."""
    if not len(table):
        return []
    found = []
    for layer in range(table.pool.num_layers):
        arrays = [*table.gather(layer)] if (table.blocks >= 0).all() else []
        window = None if (table.blocks >= 0).all() else 1
        arrays += quire.attend(
            q,
            [table],
            layer=layer,
            return_lse=True,
            sliding_window=window,
            implementation=implementation,
        )
        found += [array.tobytes() for array in arrays]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_rejected_drafts_do_not_ruin_accepted_tokens(kind: str) -> None:
    rng = np.random.default_rng(0)
    pool = new_pool(16, **KINDS[kind])
    table = quire.BlockTable(pool)
    accepted = rows(rng, 1, 8)
    add(table, accepted)
    q = rng.standard_normal((1, HEADS, DIM), np.float32)
    before = bits(table, q)
    add(table, rows(rng, 1, 40, outlier=True))
    table.truncate(8)
    assert bits(table, q) == before
    error = np.abs(np.asarray(table.gather()[0], np.float32) - accepted[0, 0]).max()
    assert error < (0.2 if kind == "float8" else 0.02)


class Twins:
    def __init__(self, path: Path, seed: int, resident: int | None = None, **options: Any) -> None:
        self.path, self.rng = path, np.random.default_rng(seed)
        backing = {"backing_file": path / "blocks", "resident_bytes": resident} if resident else {}
        self.pools = [new_pool(**options, **backing), new_pool(**options)]
        self.caches = [quire.PrefixCache(pool) for pool in self.pools]
        self.drafts = quire.PrefixCache(self.pools[0])
        self.table, self.twin = (quire.BlockTable(pool) for pool in self.pools)
        self.layers = self.pools[0].num_layers
        self.ids: list[int] = []
        self.next_id = itertools.count()

    def some(self, tokens: int, outlier: bool = False) -> tuple[Any, list[int]]:
        ids = list(itertools.islice(self.next_id, tokens))
        return rows(self.rng, self.layers, tokens, outlier), ids

    def accept(self) -> None:
        tokens = int(self.rng.integers(1, 100) if self.rng.random() < 0.2 else self.rng.integers(6))
        kv, ids = self.some(tokens)
        extends = bool(self.rng.random() < 0.3)
        if extends:
            add(self.table, kv, True)
        else:  # in two, where the twin gets all at once
            middle = int(self.rng.integers(tokens + 1))
            add(self.table, kv[:, :, :middle])
            add(self.table, kv[:, :, middle:])
        add(self.twin, kv, extends)
        self.ids += ids

    def draft(self) -> None:
        size, forks, ids = len(self.table), [], self.ids[:]
        left = int(self.rng.integers(1, MOST + 1))
        while left:
            tokens = int(self.rng.integers(1, left + 1))
            left -= tokens
            kv, more = self.some(tokens, outlier=True)
            add(self.table, kv, bool(self.rng.random() < 0.3))
            ids += more
            if self.rng.random() < 0.3:
                forks.append(self.table.fork())
            if self.rng.random() < 0.3 and (self.table.blocks >= 0).all():
                self.drafts.insert(ids, self.table)
        self.table.truncate(size)
        for fork in forks:
            fork.truncate(size)
            assert self.same(fork, self.twin)
            fork.free()
        if self.rng.random() < 0.3:
            self.drafts.evict(5)

    def go_on_from(self, table: quire.BlockTable, twin: quire.BlockTable) -> None:
        self.table.free()
        self.twin.free()
        self.table, self.twin = table, twin

    def step(self) -> None:
        whole = bool((self.table.blocks >= 0).all())
        match int(self.rng.integers(12)):
            case 0 | 1 | 2:
                self.accept()
            case 3 | 4 | 5 | 6 | 7:
                self.draft()
            case 8:
                self.go_on_from(self.table.fork(), self.twin.fork())
            case 9 if whole:
                asked = [*self.ids, 1 << 40]
                for cache, table in zip(self.caches, (self.table, self.twin), strict=True):
                    cache.insert(self.ids, table)
                if self.rng.random() < 0.5:
                    self.go_on_from(*(cache.match(asked) for cache in self.caches))
                    self.ids = self.ids[: len(self.table)]
            case 10:
                position = int(self.rng.integers(max(1, self.table.next_position)))
                for table in (self.table, self.twin):
                    table.drop_before(position)
            case 11:
                names = [self.path / "table", self.path / "twin"]
                for name, table in zip(names, (self.table, self.twin), strict=True):
                    table.save(name)
                assert names[0].read_bytes() == names[1].read_bytes()
                self.go_on_from(*(quire.load_table(pool, names[0]) for pool in self.pools))
        if len(self.table) > 900 or (not whole and self.rng.random() < 0.2):
            self.go_on_from(*(quire.BlockTable(pool) for pool in self.pools))
            self.ids = []

    def same(self, table: quire.BlockTable, twin: quire.BlockTable) -> bool:
        q = self.rng.standard_normal((1, HEADS, DIM), np.float32)
        implementation = str(self.rng.choice(["fused", "fused", "gather", "dense"]))
        return bits(table, q, implementation) == bits(twin, q, implementation)


@pytest.mark.parametrize("block_size", [1, 4, 16, 32, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_next_to_a_twin_without_drafts(tmp_path: Path, kind: str, block_size: int) -> None:
    twins = Twins(
        tmp_path,
        block_size,
        num_blocks=100 + 8000 // block_size,
        block_size=block_size,
        num_layers=1 + block_size % 3 % 2,
        **KINDS[kind],
    )
    for _ in range(60):
        twins.step()
        assert twins.same(twins.table, twins.twin)
        twins.pools[0].check()


@pytest.mark.parametrize("kind", ["bfloat16", "int4", "int8_2"])
def test_in_a_file(tmp_path: Path, kind: str) -> None:
    twins = Twins(tmp_path, 7, resident=2 << 20, num_blocks=600, num_layers=2, **KINDS[kind])
    for _ in range(60):
        twins.step()
        assert twins.same(twins.table, twins.twin)
    assert twins.pools[0].stats().resident_bytes <= 2 << 20
    twins.pools[0].check()


def test_what_holds_beyond_64_tokens() -> None:
    rng = np.random.default_rng(3)
    q = rng.standard_normal((1, HEADS, DIM), np.float32)
    table = quire.BlockTable(new_pool(dtype="int4"))
    add(table, rows(rng, 1, 32))
    before = bits(table, q)
    draft = rows(rng, 1, MOST)
    add(table, draft)
    table.truncate(32)
    assert bits(table, q) == before
    add(table, draft)
    add(table, rows(rng, 1, 1))
    table.truncate(33)
    one_more = table.fork()
    table.truncate(32)  # column 0, which 32 tokens read open, was sealed for 33
    assert not table.pool.explain(table).blocks[0].is_open
    assert bits(table, q) != before
    for mine, theirs in zip(table.gather(), one_more.gather(), strict=True):
        assert (mine[:16] == theirs[:16]).all()


def test_rows_that_are_kept_are_counted() -> None:
    pool = new_pool(dtype="int4")
    table = quire.BlockTable(pool)
    rng = np.random.default_rng(4)
    for _ in range(40):
        add(table, rows(rng, 1, 9))
        stats = pool.stats()
        assert stats.open_blocks == pool.explain(table).num_open <= 2
        assert stats.kept_open <= MOST // pool.block_size
    assert f"open_blocks=2, kept_open={stats.kept_open}," in repr(stats)
    assert stats.kept_open >= 3
    table.free()
    assert pool.stats().kept_open == 0
    plain = new_pool()
    table = quire.BlockTable(plain)
    add(table, rows(rng, 1, 300))
    assert plain.stats().kept_open == plain.stats().open_blocks == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_hit_changes_bits_where_blocks_are_open_alone(kind: str) -> None:
    rng = np.random.default_rng(5)
    pool = new_pool(**KINDS[kind])
    cache = quire.PrefixCache(pool)
    table = quire.BlockTable(pool)
    add(table, rows(rng, 1, 32))
    q = rng.standard_normal((1, HEADS, DIM), np.float32)
    cache.insert(list(range(32)), table)
    found = cache.match(list(range(33)))
    assert (bits(found, q) == bits(table, q)) == (pool.open_blocks == 0)
